"""What a training run tells whoever looks on."""

from __future__ import annotations

from typing import Protocol

from models.recipes import Recipe
from models.run import EpochRecord


class Watch(Protocol):
    """Who looks on while a run goes; may raise to stop it."""

    def note(self, text: str) -> None:
        """One line about what is done."""

    def batch(self, epoch: int, batch: int, batches: int, loss: float | None) -> None:
        """A batch is done; its loss comes every ``Recipe.log_every`` batches."""

    def epoch(self, record: EpochRecord, recipe: Recipe) -> None:
        """An epoch is done and saved."""


class Silence:
    """A watch that does nothing."""

    def note(self, text: str) -> None:
        """Ignore the line."""

    def batch(self, epoch: int, batch: int, batches: int, loss: float | None) -> None:
        """Ignore the batch."""

    def epoch(self, record: EpochRecord, recipe: Recipe) -> None:
        """Ignore the epoch."""
