"""What is told of the load of experts: numbers that go through JSON, of one process or all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeAlias

Table: TypeAlias = tuple[tuple[int, ...], ...]
"""By layer and expert."""


@dataclass(frozen=True)
class ExpertsSummary:
    """The load of one version.

    Attributes:
        share: Of the calls that are counted.
        requests: Counted since the process began.
        dropped: Requests of calls that were to be counted and could not be.
        window_requests: Requests in the window, which outlives the process.
        tokens: Of those ``requests``, by layer and expert.
        window: Tokens of those ``window_requests``.
    """

    share: float
    requests: int
    dropped: int
    window_requests: int
    tokens: Table
    window: Table


def experts_of_processes(
    one: ExpertsSummary | None, other: ExpertsSummary | None, *, ended: bool = False
) -> ExpertsSummary | None:
    """Two processes as one; counts and windows add up.

    Args:
        one: Of a process.
        other: Of another.
        ended: Whether the other has ended: whoever takes its place has its window.
    """
    if one is None or other is None:
        return one if ended else one or other
    if len(one.tokens) != len(other.tokens) or len(one.tokens[0]) != len(other.tokens[0]):
        return one  # the model was made anew in between
    added = dataclasses.replace(
        one, requests=one.requests + other.requests, dropped=one.dropped + other.dropped,
        tokens=_added(one.tokens, other.tokens),
    )  # fmt: skip
    if ended:
        return added
    return dataclasses.replace(
        added, window_requests=one.window_requests + other.window_requests,
        window=_added(one.window, other.window),
    )  # fmt: skip


def _added(one: Table, other: Table) -> Table:
    pairs = zip(one, other, strict=True)
    return tuple(tuple(a + b for a, b in zip(x, y, strict=True)) for x, y in pairs)
