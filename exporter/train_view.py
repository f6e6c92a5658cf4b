"""What a training run shows: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.recipes import Recipe
from models.run import EpochRecord


def epoch_line(record: EpochRecord, recipe: Recipe) -> str:
    """One line about a finished epoch."""
    on = recipe.chosen_on
    line = (
        f"epoch {record.epoch}/{recipe.epochs}: loss {record.train_loss:.4f}, "
        f"{on} loss {record.loss:.4f}, {on} accuracy {100 * record.accuracy:.2f} %"
    )
    return f"{line}, expert balance {balance_text(record.balance)}" if record.balance else line


def balance_text(balance: Sequence[float]) -> str:
    """The mean over the layers, and each of them."""
    layers = ", ".join(f"{layer:.3f}" for layer in balance)
    return f"{sum(balance) / len(balance):.3f} (layers {layers})"


class TrainView:
    """Implements ``models.train.Watch``; a context manager, since a bar must be put away."""

    def __init__(self, epochs: int, *, terminal: bool | None = None) -> None:
        self.epochs = epochs
        self.bar = _progress() if (sys.stdout.isatty() if terminal is None else terminal) else None
        self.task = None if self.bar is None else self.bar.add_task("", visible=False, loss="")

    def __enter__(self) -> TrainView:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def note(self, text: str) -> None:
        """One line, above the bar where there is one."""
        if self.bar is None:
            click.echo(text)
        else:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def batch(self, epoch: int, batch: int, batches: int, loss: float | None) -> None:
        """Move the bar; elsewhere a line where there is a loss to show."""
        if self.bar is not None and self.task is not None:
            if loss is not None:
                self.bar.update(self.task, loss=f"loss {loss:.4f}")
            self.bar.update(
                self.task,
                description=f"epoch {epoch}/{self.epochs}",
                completed=batch,
                total=batches,
                visible=True,
            )
        elif loss is not None:
            self.note(f"epoch {epoch}/{self.epochs}, batch {batch}/{batches}: loss {loss:.4f}")

    def epoch(self, record: EpochRecord, recipe: Recipe) -> None:
        """One line."""
        self.note(epoch_line(record, recipe))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=Console(),
        transient=True,
    )
