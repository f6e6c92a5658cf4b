"""Plots as SVG: dark on light, colours that the colour-blind tell apart, the same bytes again."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from exporter.report.balance import KindLoad
from exporter.report.svg import inlined_svg
from exporter.report.words import number, printable
from runtime.proof_records import Judgement

# Okabe and Ito, "Color Universal Design", 2008.
BLUE, VERMILION, GREY, INK = "#0072b2", "#d55e00", "#8a8a8a", "#1d2430"
_UNIT = "\N{MULTIPLICATION SIGN} PyTorch's own float32 error"
_STYLE: Any = {  # Matplotlib types its keys one by one
    "svg.fonttype": "none",  # text stays text: it can be found, read aloud and selected
    "text.parse_math": False,  # names may hold dollars
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": "#9aa3b0",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
MOST_BARS = 48
"""The table has all; a drawing of more cannot be read."""
_NUMBERED_EXPERTS = 16
_WIDE = 100.0
"""Largest over smallest value from which on a scale is logarithmic."""


@dataclass(frozen=True)
class Bar:
    """One number and what it is held to.

    Attributes:
        value: None or not finite where there is no error to draw.
        limit: None where the number is shown and not judged.
    """

    label: str
    value: float | None
    limit: float | None

    @property
    def beyond(self) -> bool:
        """Whether it is above its limit; so is what is not a number."""
        return self.limit is not None and not self._drawn <= self.limit

    @property
    def _drawn(self) -> float:
        return math.nan if self.value is None else self.value


@dataclass(frozen=True)
class _Measure:
    """One of the three numbers of a judgement, as a plot shows it."""

    key: str
    title: str
    axis: str
    value: Callable[[Judgement], float | None]
    limit: Callable[[Judgement], float | None]


MEASURES = (
    _Measure("rms", "RMS error", _UNIT,
             lambda item: item.rms_factor, lambda item: item.rms_limit),
    _Measure("max", "Largest error", _UNIT,
             lambda item: item.max_factor, lambda item: item.max_limit),
    _Measure("relative", "Relative RMS error", "of the truth's size",
             lambda item: item.relative_rms, lambda item: item.relative_limit),
)  # fmt: skip


def error_plots(judgements: Sequence[Judgement], prefix: str) -> tuple[Markup, ...]:
    """The errors by output and kind of input, each beside its limit; empty without floats.

    Args:
        judgements: Of one proof; integers, which must be equal, are left to the table.
        prefix: Of the ids in the drawings.
    """
    floats = [item for item in judgements if item.rms_scale is not None]
    outputs = {item.output for item in floats}
    plots = []
    for measure in MEASURES:
        bars = [Bar(_label(item, len(outputs) > 1), measure.value(item), measure.limit(item))
                for item in floats[:MOST_BARS]]  # fmt: skip
        if bars:
            said = "; ".join(_said(bar) for bar in bars)
            label = f"{measure.title}, {measure.axis}: {said}"
            figure = _styled(partial(_bars_figure, bars, measure))
            plots.append(inlined_svg(figure, f"{prefix}-{measure.key}", label))
    return tuple(plots)


def load_plot(load: KindLoad, prefix: str) -> Markup:
    """A heat map of the tokens that each expert got, as shares of its layer's."""
    label = f"Heat map of the tokens of each expert on {load.kind} inputs, layer by layer"
    return inlined_svg(_styled(partial(_load_figure, load)), prefix, label)


def _styled(draw: Callable[[], Figure]) -> str:
    content = io.BytesIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": "twinport"}):
        draw().savefig(content, format="svg", metadata=_METADATA, transparent=True)
    return content.getvalue().decode("utf-8")


def _label(item: Judgement, with_output: bool) -> str:
    return printable(f"{item.output}, {item.kind}" if with_output else item.kind)


def _said(bar: Bar) -> str:
    limit = "not judged" if bar.limit is None else f"at most {bar.limit:g}"
    return f"{bar.label} {number(bar.value)} ({limit})"


def _bars_figure(bars: Sequence[Bar], measure: _Measure) -> Figure:
    figure = Figure(figsize=(4.3, 1.1 + 0.3 * len(bars)), layout="constrained")
    axes = figure.subplots()
    numbers = [n for bar in bars for n in (bar.value, bar.limit) if n and math.isfinite(n)]
    logarithmic = len(numbers) > 1 and max(numbers) / min(numbers) > _WIDE
    low = min(numbers, default=1.0) / 3 if logarithmic else 0.0
    # Room for the number at the end of the longest bar.
    high = max(numbers, default=1.0) * (30 if logarithmic else 1.3)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    # Its own labels are formulas, which are switched off for the sake of names.
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.set_xlim(low, high)
    for row, bar in enumerate(bars):
        _draw_bar(axes, row, bar, high)
    axes.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_title(measure.title, fontsize=10, fontweight="bold", loc="left")
    axes.set_xlabel(measure.axis + (", logarithmic" if logarithmic else ""))
    return figure


def _draw_bar(axes: Axes, row: int, bar: Bar, high: float) -> None:
    """A bar as long as the error, hollow where nothing is judged, and its limit as a line."""
    value = bar.value
    drawn = value if value is not None and math.isfinite(value) else high if bar.beyond else 0.0
    color = VERMILION if bar.beyond else BLUE
    judged = bar.limit is not None
    edge = "white" if bar.beyond else color if judged else GREY
    axes.barh(
        row, drawn, height=0.55, color=color if judged else "white", edgecolor=edge,
        hatch="////" if bar.beyond else None, linewidth=0.9,
    )  # fmt: skip
    said = "not finite" if value is None or not math.isfinite(value) else number(value)
    text = f"{said}, above the limit" if bar.beyond else said
    inside = bar.beyond and drawn >= high / 4
    axes.annotate(
        text, (drawn, row), xytext=(-4 if inside else 4, 0), textcoords="offset points",
        va="center", ha="right" if inside else "left", fontsize=8,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2} if inside else None,
    )  # fmt: skip
    if bar.limit is not None and bar.limit > 0:
        axes.plot([bar.limit] * 2, [row - 0.42, row + 0.42], color=INK, linewidth=1.6)


def _load_figure(load: KindLoad) -> Figure:
    layers, experts = load.tokens.shape
    totals = load.tokens.sum(1, keepdims=True)
    shares = 100 * load.tokens / np.maximum(totals, 1)
    numbered = experts <= _NUMBERED_EXPERTS
    width = 2.4 + (0.5 * experts if numbered else min(0.09 * experts, 7.0))
    row = 0.42 if numbered else 0.24
    figure = Figure(figsize=(width, 1.2 + row * layers), layout="constrained")
    axes = figure.subplots()
    # From zero, so that an expert without tokens is white; twice the even share is dark.
    top = max(float(shares.max(initial=0)), 200 / experts)
    if numbered:
        axes.pcolormesh(np.arange(experts), np.arange(layers), shares, cmap="Blues", vmin=0,
                        vmax=top, shading="nearest", edgecolors="white", linewidth=1)  # fmt: skip
        axes.invert_yaxis()
        for (layer, expert), share in np.ndenumerate(shares):
            axes.text(expert, layer, f"{share:.1f}", ha="center", va="center", fontsize=8,
                      color="white" if share > 0.6 * top else INK)  # fmt: skip
        axes.set_xticks(range(experts))
    axes.set_yticks(range(layers), [printable(item.layer) for item in load.layers])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(f"expert (even share: {100 / experts:.4g} %)")
    title = f"{load.kind} inputs: share of each layer's tokens, %"
    axes.set_title(title, fontsize=10, fontweight="bold", loc="left")
    if not numbered:
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=top, aspect="auto")
        figure.colorbar(image, label="%")
    return figure
