"""What a build shows: nested bars on a terminal, a line a phase elsewhere."""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

PLAIN_DEPTH = 2
"""Phases below it come and go too fast to be lines."""


class BuildView:
    """Implements ``exporter.engine.listen.Watch``; a context manager, since bars are put away."""

    def __init__(self, stream: TextIO | None = None, *, terminal: bool | None = None) -> None:
        self.stream = stream or sys.stderr
        self.bars = _bars(self.stream) if _is(terminal, self.stream) else None
        self._lock = threading.Lock()
        self._open: dict[str, tuple[int, TaskID | None]] = {}

    def __enter__(self) -> BuildView:
        if self.bars is not None:
            self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bars is not None:
            self.bars.stop()

    def note(self, text: str) -> None:
        """One line, above the bars where there are any."""
        if self.bars is None:
            click.echo(text, file=self.stream)
        else:
            self.bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        """A bar below its parent's, or a line."""
        with self._lock:
            depth = self._open[parent][0] + 1 if parent in self._open else 0
            task = None
            if self.bars is not None:
                task = self.bars.add_task("  " * depth + phase, total=steps)
            self._open[phase] = depth, task
        if self.bars is None and depth < PLAIN_DEPTH:
            self.note(f"{'  ' * depth}{phase}")

    def stepped(self, phase: str, step: int) -> None:
        """Move the bar."""
        task = self._open.get(phase, (0, None))[1]
        if self.bars is not None and task is not None:
            self.bars.update(task, completed=step + 1)

    def finished(self, phase: str) -> None:
        """Put the bar away."""
        with self._lock:
            _, task = self._open.pop(phase, (0, None))
        if self.bars is not None and task is not None:
            self.bars.remove_task(task)


def _is(terminal: bool | None, stream: TextIO) -> bool:
    return stream.isatty() if terminal is None else terminal


def _bars(stream: TextIO) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        console=Console(file=stream),
        transient=True,
    )
