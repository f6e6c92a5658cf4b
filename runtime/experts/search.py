"""How long to look for moves, and what they must keep to."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.experts.arrays import IntArray


@dataclass(frozen=True)
class Search:
    """How long to look for moves.

    Attributes:
        rounds: Of shares and moves.
        proposals: Of each layer in a round.
        steps: Of the share solver in a round.
        reserve: What a replica is worth for later, in parts of its expert's load for each
            replica; the rest of its worth is what it computes now.
        least_gain: Load that a move must take from the hottest device of its layer.
        stress: Standard deviations by which what cannot be shared is raised.
        turns: Moves of a layer at most, where nothing has a price.
    """

    rounds: int = 4
    proposals: int = 4
    steps: int = 6
    reserve: float = 1.0
    least_gain: float = 1e-3
    stress: float = 1.5
    turns: int = 8


SEARCH = Search()
"""What the benchmark in docs/experts.md is measured with."""


@dataclass(frozen=True)
class Bounds:
    """What a changed placement must keep to.

    Attributes:
        replicas: Of all layers together.
        memory: ``[devices]`` replicas that a device holds.
        moves: New replicas.
    """

    replicas: int
    memory: IntArray
    moves: int
