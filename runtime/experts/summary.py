"""What is told of the load of experts: numbers that go through JSON, of one process or all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

Table: TypeAlias = tuple[tuple[int, ...], ...]
"""By layer and expert."""
FloatTable: TypeAlias = tuple[tuple[float, ...], ...]
Pairs: TypeAlias = tuple[tuple[tuple[int, int, float], ...], ...]
"""By layer: two experts, the lower number first, and requests in which both were called."""

Number = TypeVar("Number", int, float)


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
        decayed: Tokens, each weighted by its age; outlives the process, too.
        remembered: Requests counted in all, by earlier processes, too.
        pairs: Of those ``remembered``, estimated, the strongest pairs first; none where pairs
            are not counted.
    """

    share: float
    requests: int
    dropped: int
    window_requests: int
    tokens: Table
    window: Table
    decayed: FloatTable
    remembered: int
    pairs: Pairs | None


def experts_of_processes(
    one: ExpertsSummary | None, other: ExpertsSummary | None, *, ended: bool = False
) -> ExpertsSummary | None:
    """Two processes as one; counts and windows add up.

    The strongest pairs of each need not sum to the strongest of both.

    Args:
        one: Of a process.
        other: Of another.
        ended: Whether the other has ended: whoever takes its place has what outlives it.
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
        window=_added(one.window, other.window), decayed=_added(one.decayed, other.decayed),
        remembered=one.remembered + other.remembered, pairs=_joined(one.pairs, other.pairs),
    )  # fmt: skip


def _added(
    one: tuple[tuple[Number, ...], ...], other: tuple[tuple[Number, ...], ...]
) -> tuple[tuple[Number, ...], ...]:
    pairs = zip(one, other, strict=True)
    return tuple(tuple(a + b for a, b in zip(x, y, strict=True)) for x, y in pairs)


def _joined(one: Pairs | None, other: Pairs | None) -> Pairs | None:
    if one is None or other is None:
        return None
    layers = []
    for pairs in zip(one, other, strict=True):
        requests: dict[tuple[int, int], float] = {}
        for first, second, count in (pair for its in pairs for pair in its):
            requests[first, second] = requests.get((first, second), 0.0) + count
        falling = sorted(requests.items(), key=lambda item: (-item[1], item[0]))
        layers.append(tuple((*pair, count) for pair, count in falling))
    return tuple(layers)
