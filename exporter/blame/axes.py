"""Which line of the user's fixes an axis that was to be free, or asks more of its size.

torch.export says that it happened, not where. So the capture is run once more and watched
line by line: an axis that was free before a line and has a number after it was fixed there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import nn

from exporter.blame.place import Place, is_users, place_of_frames
from exporter.ranges import Range
from runtime.tensors import TensorSpec

_TRIED = 64
"""Sizes of an axis that a condition is tried with."""


@dataclass(frozen=True)
class Fixed:
    """What became of an axis.

    Attributes:
        axis: Its name.
        size: The number that it was fixed to; none where only a condition came up.
        condition: What not every declared size satisfies (``Eq(Mod(n, 2), 0)``).
        refused: The first declared size that does not satisfy it.
    """

    axis: str
    place: Place
    size: int | None = None
    condition: str = ""
    refused: int = 0


class _Watch:
    """Looks at the free axes after every line of the user's."""

    def __init__(self, module: nn.Module, ranges: Mapping[str, Range]) -> None:
        self.found: Fixed | None = None
        self._module = module
        self._ranges = ranges
        self._axes: dict[str, torch.SymInt] = {}
        self._guards = 0
        self._last: tuple[list[FrameType], list[int]] = ([], [])

    def take(self, name: str, size: object) -> None:
        """Note the symbol that stands for an axis."""
        if isinstance(size, torch.SymInt):
            self._axes.setdefault(name, size)

    def trace(self, frame: FrameType, event: str, _arg: Any) -> Callable[..., Any] | None:
        """For ``sys.settrace``."""
        if self.found is not None or not is_users(frame.f_code.co_filename):
            return None if event == "call" else self.trace
        if event != "call":
            self._look()
        back = frame.f_back if event == "return" else frame
        if event in ("line", "return"):
            self._last = _stack(back)
        return self.trace

    def _look(self) -> None:
        for axis, symbol in self._axes.items():
            size = symbol.node.maybe_as_int()
            if size is not None:
                self.found = Fixed(axis, self._place(), size=int(size))
                return
        for guard in self._new_guards():
            for axis, symbol in self._axes.items():
                refused = self._refused(guard.expr, symbol, axis)
                if refused is not None:
                    text = str(guard.expr).replace(str(symbol.node.expr), axis)
                    self.found = Fixed(axis, self._place(), condition=text, refused=refused)
                    return

    def _new_guards(self) -> list[Any]:
        """Conditions on sizes that came up since the last look."""
        environment = next((s.node.shape_env for s in self._axes.values()), None)
        guards = environment.guards if environment else []
        new, self._guards = guards[self._guards :], len(guards)
        return new

    def _refused(self, condition: Any, symbol: torch.SymInt, axis: str) -> int | None:
        """The first declared size for which a condition on this axis alone is false."""
        if condition.free_symbols != symbol.node.expr.free_symbols:
            return None
        low, high = self._ranges[axis]
        for size in range(low, min(high, low + _TRIED) + 1):
            if condition.subs(symbol.node.expr, size) == False:  # noqa: E712  sympy's own
                return size
        return None

    def _place(self) -> Place:
        frames, lines = self._last
        return place_of_frames(frames, lines, self._module)


def _stack(frame: FrameType | None) -> tuple[list[FrameType], list[int]]:
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    frames.reverse()
    return frames, [item.f_lineno for item in frames]


def line_that_fixes(
    module: nn.Module,
    inputs: tuple[TensorSpec, ...],
    ranges: Mapping[str, Range],
    capture: Callable[[], object],
) -> Fixed | None:
    """Run a capture that fails once more and find the line that fixes an axis.

    Args:
        module: What is captured.
        inputs: Its inputs with the names of the free axes.
        ranges: Smallest and largest size of each.
        capture: Runs the capture; its failure is expected.
    """
    watch = _Watch(module, ranges)

    def take(_module: nn.Module, _args: Any, given: Mapping[str, Any]) -> None:
        for spec in inputs:
            for axis, size in zip(spec.shape, given[spec.name].shape, strict=True):
                if axis in ranges:
                    watch.take(str(axis), size)

    handle = module.register_forward_pre_hook(take, with_kwargs=True)
    try:
        with _tracing(watch.trace):
            capture()
    except Exception:
        return watch.found
    finally:
        handle.remove()
    return watch.found


@contextmanager
def _tracing(trace: Callable[..., Any]) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)
