"""Pictures of a replay and of a served model's load; Matplotlib."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from runtime.experts.arrays import FloatArray
from runtime.experts.replay import Replayed
from runtime.watch.experts import ModelLoad


def replay_figure(replays: Sequence[Replayed]) -> Figure:
    """Draw the last window's levels and the score of every window.

    Args:
        replays: Of one trace, a policy each; the last one's levels are shown.
    """
    shown = replays[-1]
    figure = Figure(figsize=(13, 8), layout="constrained")
    figure.suptitle(f"{shown.trace}: devices in the last window, and all windows")
    (first, second), (third, fourth) = figure.subplots(2, 2)
    top = max(2.0, float(min(np.quantile(shown.before, 0.995), 6.0)))
    for axes, level, title in (
        (first, shown.before, "without placement"),
        (second, shown.after, f"{shown.policy}, {shown.shares.value} shares"),
    ):
        _levels(axes, level, title, top)
        figure.colorbar(axes.images[0], ax=axes, extend="max", label="load over the mean")
    _sorted_levels(third, shown)
    _windows(fourth, replays)
    return figure


def _levels(axes: Axes, level: FloatArray, title: str, top: float, across: str = "device") -> None:
    norm = TwoSlopeNorm(1.0, 0.0, top)
    axes.imshow(level, aspect="auto", cmap="RdBu_r", interpolation="nearest", norm=norm)
    axes.set(title=f"{title}: highest {level.max():.2f}", xlabel=across, ylabel="layer")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))


def _sorted_levels(axes: Axes, shown: Replayed) -> None:
    """Mean over layers of the levels, the highest device first."""
    for level, label in (
        (shown.before, "without placement"),
        (shown.after, f"{shown.policy}, {shown.shares.value} shares"),
    ):
        falling = -np.sort(-level, axis=1)
        axes.plot(np.arange(1, level.shape[1] + 1), falling.mean(0), label=label)
    axes.axhline(1, color="gray", linewidth=0.8)
    axes.set(title="Devices of a layer, the fullest first", xlabel="rank of the device",
             ylabel="load over the mean", ylim=(0, None))  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()


def _windows(axes: Axes, replays: Sequence[Replayed]) -> None:
    for each in replays:
        values = [window.max_over_mean for window in each.windows]
        axes.plot(range(1, len(values) + 1), values, marker="o", markersize=3,
                  label=f"{each.policy}, {each.shares.value} shares")  # fmt: skip
    axes.set(title="Fullest device over the mean, on the next window", xlabel="window",
             ylabel="max/mean, mean over layers")  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend()


def load_figure(load: ModelLoad) -> Figure:
    """Draw which experts of which layer were called, over the mean of the layer.

    Args:
        load: Of one model; its window is drawn.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    mean = load.window.mean(1, keepdims=True)
    level = load.window / np.where(mean > 0, mean, 1)
    title = f"{load.model}/{load.version}, {load.window_requests:,} requests"
    _levels(axes, level, title, max(2.0, float(level.max())), "expert")
    figure.colorbar(axes.images[0], ax=axes, label="tokens over the layer's mean")
    return figure
