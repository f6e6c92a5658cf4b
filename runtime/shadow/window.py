"""The latest comparisons of a version, and whether they say that it drifts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from runtime.shadow.comparison import Comparison
from runtime.shadow.yardstick import Yardstick

LEAST = 64
"""Requests before anything is said of a version."""
WINDOW = 256
"""Of more requests, the latest count."""
DIFFERING_LIMIT = 0.01
"""Share of rows that may differ in whole numbers, NaN or experts without a reason."""
DIFFERING_ROWS = 3
"""Rows from which on they are a share."""


@dataclass(frozen=True)
class OutputDrift:
    """One output over the window.

    Attributes:
        rms: RMS of the difference in units of float32's own error.
        limit: The most that a sound version may have.
        differing: Share of rows that differ where they must be equal.
        requests: That were compared.
    """

    rms: float
    limit: float
    differing: float
    requests: int


@dataclass(frozen=True)
class Drift:
    """What the window says.

    Attributes:
        reason: One line; empty where nothing is wrong, or too little is known.
        outputs: By name.
    """

    reason: str = ""
    outputs: Mapping[str, OutputDrift] = field(default_factory=dict)


class Window:
    """Sums over the latest comparisons; extreme ones do not count."""

    def __init__(self, yardsticks: Mapping[str, Yardstick]) -> None:
        self._yardsticks = yardsticks
        self._outputs: dict[str, _Ring] = {}
        self._routing = _Ring(2)

    def add(self, comparison: Comparison) -> Drift:
        """Take one in, and judge."""
        if not comparison.extreme:
            self._routing.add(comparison.rerouted, comparison.rows)
            for name, item in comparison.outputs.items():
                ring = self._outputs.setdefault(name, _Ring(4))
                # What was routed otherwise in all its rows says nothing of the numbers.
                if item.rows:
                    ring.add(item.squares, item.elements, item.differing, item.rows)
        return self.judged()

    def judged(self) -> Drift:
        """What all of them say."""
        rerouted, rows = self._routing.sums()
        reason = ""
        if self._routing.count >= LEAST and _too_many(rerouted, rows):
            reason = (
                f"{rerouted:.0f} of {rows:.0f} rows went to other experts than on the "
                f"reference; at most {DIFFERING_LIMIT:.0%}"
            )
        outputs: dict[str, OutputDrift] = {}
        for name, ring in self._outputs.items():
            squares, elements, differing, rows = ring.sums()
            yardstick = self._yardsticks.get(name)
            drift = OutputDrift(
                float(np.sqrt(squares / elements)) if elements else 0.0,
                yardstick.limit if yardstick else 0.0,
                differing / rows if rows else 0.0,
                ring.count,
            )
            outputs[name] = drift
            if ring.count >= LEAST:
                reason = reason or _complaint(name, drift, differing, rows)
        return Drift(reason, outputs)


def _complaint(name: str, drift: OutputDrift, differing: float, rows: float) -> str:
    if not drift.rms <= drift.limit:
        return (
            f"output '{name}' is off the reference by {drift.rms:.4g} x float32's own error "
            f"over {drift.requests} requests; at most {drift.limit:.3g}"
        )
    if _too_many(differing, rows):
        return (
            f"output '{name}' differs from the reference in {differing:.0f} of {rows:.0f} rows; "
            f"at most {DIFFERING_LIMIT:.0%}"
        )
    return ""


def _too_many(differing: float, rows: float) -> bool:
    return differing >= DIFFERING_ROWS and differing > DIFFERING_LIMIT * rows


class _Ring:
    """The latest rows of numbers; summed anew each time, since infinity cannot be taken off."""

    def __init__(self, width: int) -> None:
        self._values = np.zeros((WINDOW, width))
        self._added = 0

    @property
    def count(self) -> int:
        """Rows held."""
        return min(self._added, WINDOW)

    def add(self, *values: float) -> None:
        """Take a row in; the oldest leaves."""
        self._values[self._added % WINDOW] = values
        self._added += 1

    def sums(self) -> list[float]:
        """Of each column."""
        return [float(value) for value in self._values.sum(0)]
