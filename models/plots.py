"""Pictures of a training run: its curves, answers beside the truth, the use of experts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from models.data import IntArray, UInt8Array
from models.files import write_atomically
from models.run import EpochRecord


def curves_figure(records: Sequence[EpochRecord], scored_on: str) -> Figure:
    """Draw loss and accuracy per epoch.

    Args:
        records: One per epoch.
        scored_on: The images of loss and accuracy (``test``).
    """
    epochs = [record.epoch for record in records]
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    losses.plot(epochs, [record.train_loss for record in records], marker=".", label="training")
    losses.plot(epochs, [record.loss for record in records], marker=".", label=scored_on)
    losses.set(title="Loss", xlabel="epoch", ylabel="mean over the images", ylim=(0, None))
    losses.legend()
    percent = [100 * record.accuracy for record in records]
    accuracies.plot(epochs, percent, marker=".", color="tab:orange", label=scored_on)
    accuracies.set(title="Accuracy", xlabel="epoch", ylabel="% right")
    accuracies.legend(loc="lower right")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def predictions_figure(images: UInt8Array, predicted: IntArray, labels: IntArray) -> Figure:
    """Draw images in a row, each titled with prediction and truth; a wrong one in red.

    Args:
        images: ``[n, height, width]``.
        predicted: ``[n]``.
        labels: ``[n]``.
    """
    figure = Figure(figsize=(2 * len(images), 2.4), layout="constrained")
    row = figure.subplots(1, len(images), squeeze=False)[0]
    for axes, image, answer, truth in zip(row, images, predicted, labels, strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        axes.set_title(
            f"Pred: {answer} / True: {truth}", color="black" if answer == truth else "tab:red"
        )
        axes.set_axis_off()
    return figure


def experts_figure(tokens: IntArray) -> Figure:
    """Draw a heat map of the tokens that each expert got, as shares of its layer's.

    Args:
        tokens: ``[layers, experts]``.
    """
    percent = 100 * tokens / tokens.sum(1, keepdims=True)
    layers, experts = percent.shape
    even = 100 / experts
    figure = Figure(figsize=(2 + 0.8 * experts, 1.6 + 0.6 * layers), layout="constrained")
    axes = figure.subplots()
    white_is_even = TwoSlopeNorm(even, vmin=0, vmax=max(2 * even, percent.max()))
    image = axes.imshow(percent, cmap="RdBu_r", norm=white_is_even, aspect="auto")
    for layer, expert in np.ndindex(layers, experts):
        dark = abs(white_is_even(percent[layer, expert]) - 0.5) > 0.3
        color = "white" if dark else "black"
        axes.text(
            expert, layer, f"{percent[layer, expert]:.1f}", ha="center", va="center", color=color
        )
    axes.set(
        title=f"Test images: share of each layer's tokens, % (even: {even:.4g})",
        xlabel="expert",
        ylabel="layer",
        xticks=range(experts),
        yticks=range(layers),
    )
    figure.colorbar(image, label="% of the layer's tokens")
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    write_atomically(path, content.getvalue())
