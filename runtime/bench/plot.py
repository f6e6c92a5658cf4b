"""The picture of a run: percentiles by requests in flight, and the distribution; Matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from runtime.bench.result import PERCENTILES, Level
from runtime.layout import check_target, write_atomically

FORMATS = (".png", ".svg", ".pdf")
_BINS = 80


def latency_figure(levels: Sequence[Level], title: str) -> Figure:
    """Draw what was measured.

    Args:
        levels: Those with at least one answer are drawn.
        title: Of the whole.
    """
    shown = [level for level in levels if level.latencies]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    _percentiles(left, shown)
    _distribution(right, shown)
    return figure


def check_plot_file(path: Path) -> None:
    """Refuse a file that cannot be drawn to; see ``check_target``."""
    check_target(path, "plot", FORMATS)


def write_plot(path: Path, figure: Figure) -> None:
    """Write the picture whole; its ending says the format."""
    data = io.BytesIO()
    figure.savefig(data, format=path.suffix.lower().lstrip("."), dpi=120)
    write_atomically(path, data.getvalue())


def _percentiles(axes: Axes, levels: Sequence[Level]) -> None:
    in_flight = [level.in_flight for level in levels]
    colors = mpl.colormaps["viridis"](np.linspace(0.85, 0.1, len(PERCENTILES)))
    for percent, color in zip(PERCENTILES, colors, strict=True):
        values = [level.percentile_ms(percent) or np.nan for level in levels]
        axes.plot(in_flight, values, marker="o", color=color, label=f"p{percent}")
    axes.set(xscale="log", yscale="log", title="Latency by load", ylabel="milliseconds",
             xlabel="requests in flight (answers per second below)")  # fmt: skip
    labels = [f"{level.in_flight}\n{level.requests_per_second:,.0f}/s" for level in levels]
    axes.set_xticks(in_flight, labels=labels)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()
    _plain_numbers(axes.yaxis)
    axes.grid(alpha=0.3)
    axes.legend()


def _distribution(axes: Axes, levels: Sequence[Level]) -> None:
    """Densities over the logarithm of the latency, on common bins."""
    if levels:
        low = min(min(level.latencies) for level in levels) * 1000
        high = max(level.percentile_ms(99.9) or 0 for level in levels)
        bins = np.geomspace(low, max(high, low * 1.1), _BINS)
    colors = mpl.colormaps["viridis"](np.linspace(0.1, 0.85, max(len(levels), 1)))
    for level, color in zip(levels, colors, strict=True):
        share = 100 / len(level.latencies)
        counts, edges = np.histogram(np.multiply(level.latencies, 1000), bins)
        axes.stairs(counts * share, edges, color=color, fill=True, alpha=0.25)
        axes.stairs(counts * share, edges, color=color, label=f"{level.in_flight} in flight")
    axes.set(xscale="log", title="Distribution, up to p99.9", xlabel="milliseconds",
             ylabel="% of requests")  # fmt: skip
    _plain_numbers(axes.xaxis)
    axes.grid(alpha=0.3)
    axes.legend()


def _plain_numbers(axis: Axis) -> None:
    """``0.5``, ``1``, ``2``: no powers of ten, and not so many that they overlap."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
