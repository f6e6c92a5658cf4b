"""What a plan promises: its cost, a cost that no plan can be below, gain, transfers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.outlook import Outlook
from runtime.experts.search import Bounds
from runtime.experts.terms import Cost

_HOTTEST = (1, 2, 4, 8)
"""Sizes of the sets of hottest devices that are looked at."""


@dataclass(frozen=True)
class Certificate:
    """All costs are those under the predicted load.

    Attributes:
        cost: Of the plan.
        lower_bound: No placement within the limits costs less.
        as_it_is: What the current placement costs with its shares; None where there is none.
        reshared: What it costs with the best shares; None where there is none.
        moves: Replicas that are new on their device.
        moved_bytes: Their weights.
        replicas: Of the plan.
    """

    cost: Cost
    lower_bound: float
    as_it_is: Cost | None
    reshared: Cost | None
    moves: int
    moved_bytes: int
    replicas: int

    @property
    def gap(self) -> float:
        """How far the cost is above the bound, at most, in parts of the bound."""
        return self.cost.total / self.lower_bound - 1

    @property
    def expected_gain(self) -> float | None:
        """What the plan takes off the cost of leaving everything as it is."""
        return None if self.as_it_is is None else self.as_it_is.total - self.cost.total


def cost_of(keys: IntArray, amount: FloatArray, outlook: Outlook, memory: float) -> Cost:
    """The objective, term by term.

    Args:
        keys: ``[replicas]`` as in ``Placement``.
        amount: ``[replicas]`` load of each.
        outlook: Load, speeds, weights and prices.
        memory: What one replica of every expert costs.
    """
    highest, links, paid = (outlook.costs(keys, amount) * outlook.weight).mean(1)
    return Cost(float(highest), float(paid), memory * len(keys) / outlook.load.size, float(links))


def lower_bound(outlook: Outlook, bounds: Bounds, memory: float, current: IntArray | None) -> float:
    """A cost that no placement within the limits goes below.

    Levels are 1 on the mean. One expert's replicas are at most as many as there are devices
    and places. And from a current placement: an expert whose replicas are all among some
    devices stays there unless it gets a new one, so with m moves those devices keep all such
    load but that of the m heaviest; what the layers need most is the best split of the moves.
    Links add at least what the slowest takes if they alone are levelled, and with compute at
    least what both take if loads can be divided at will.

    Args:
        outlook: Load, speeds and weights.
        bounds: Of the plan.
        memory: What one replica of every expert costs.
        current: ``[replicas]`` keys, where moves from them are bounded.
    """
    layers, experts = outlook.load.shape
    copies = min(outlook.devices, 1 + bounds.replicas - layers * experts)
    fastest = -np.sort(-outlook.pace)[:copies].sum()
    both, link = (1.0, 0.0) if outlook.links is None else (
        outlook.links.least, outlook.links.least_link
    )  # fmt: skip
    least = np.maximum(both, np.maximum(1.0, outlook.load.max(1) / fastest) + link)  # [layers]
    compute = least * outlook.weight
    if current is not None and bounds.moves < layers * experts:
        kept = _kept_levels(current, outlook, bounds.moves)  # [layers, moves + 1]
        floor = np.maximum(kept + link, least[:, None]) * outlook.weight[:, None]
        compute = _best_split(floor, bounds.moves)
    return float(np.mean(compute)) + memory


def _kept_levels(keys: IntArray, outlook: Outlook, moves: int) -> FloatArray:
    """``[layers, moves + 1]`` level that the hottest devices keep after so many moves."""
    layers, experts = outlook.load.shape
    devices = outlook.devices
    group = keys // devices
    layer = group // experts
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    count = np.diff(np.append(first, len(group)))
    place = layer * devices + keys % devices
    even = (outlook.load.reshape(-1)[group[first]] / count).repeat(count)
    level = np.bincount(place, even, minlength=layers * devices).reshape(layers, -1)
    order = np.argsort(-level / outlook.pace, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(devices)[None].repeat(layers, 0), axis=1)
    furthest = np.maximum.reduceat(rank.reshape(-1)[place], first).reshape(layers, experts)
    speed = np.cumsum(outlook.pace[order], axis=1)
    kept = np.zeros((layers, min(moves, experts) + 1))
    for size in (each for each in _HOTTEST if each < devices):
        confined = np.where(furthest < size, outlook.load, 0.0)
        heavy = -np.sort(-confined, axis=1)
        taken = np.concatenate((np.zeros((layers, 1)), np.cumsum(heavy, axis=1)), axis=1)
        left = np.maximum(taken[:, -1:] - taken, 0)[:, : kept.shape[1]]
        kept = np.maximum(kept, left / speed[:, size - 1 : size])
    return kept


def _best_split(floor: FloatArray, moves: int) -> FloatArray:
    """``[layers]`` floors after the moves that lower their sum most; rows are convex."""
    drops = -np.diff(floor, axis=1)
    best = -np.sort(-drops.reshape(-1))[:moves]
    lowered = floor[:, 0].copy()
    lowered[0] -= best.sum()  # only the sum over layers is used
    return lowered
