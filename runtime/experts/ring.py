"""Devices in a ring, neighbours of which share a heavy expert: as little as levels need to follow.

What is shared can follow the load; what is not, cannot. With as many spare replicas as devices,
each device shares its heaviest experts with the devices beside it, half and half as expected, and
load flows around the ring either way. With fewer, the ring takes as many devices as there are
spare replicas and the heaviest experts, so that their drift is borne together; the others hold
many light experts, whose sum hardly drifts. A device of the ring is expected to be fuller than
the others: it is the highest of many that decides, and the ring is one where they are many.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from runtime.experts.arrays import BoolArray, FloatArray, IntArray
from runtime.experts.outlook import Outlook

_HALVINGS = 40
_FULL = 1.1
"""Mean level of a ring's shared experts above which it takes more devices, in separate chains."""
_CLOSED = 3
"""Fewest devices that make a ring; fewer make a chain."""
_TRUST = 1.3
"""Standard deviations of the ring's mean level that its level stays below the others' highest."""


@dataclass(frozen=True)
class Ring:
    """Which experts are shared by which devices, layer by layer.

    Attributes:
        expert: ``[layers, most]`` shared experts in their order around the ring.
        copies: ``[layers, most]`` replicas of each; 0 where there is no expert.
        begin: ``[layers, most]`` stop of the first replica; the others are at the next stops.
        size: ``[layers]`` stops of the ring; after the last comes the first.
        device: ``[layers, devices]`` of each stop; those after the last are not of the ring.
        level: ``[layers]`` that devices of the ring are meant to have; the mean is 1.
    """

    expert: IntArray
    copies: IntArray
    begin: IntArray
    size: IntArray
    device: IntArray
    level: FloatArray

    @cached_property
    def replicas(self) -> tuple[IntArray, IntArray, IntArray]:
        """Layer, place in ``expert`` and device of each replica."""
        layer, rank = np.nonzero(self.copies)
        count = self.copies[layer, rank]
        layer, rank = np.repeat(layer, count), np.repeat(rank, count)
        turn = np.arange(len(layer)) - np.repeat(np.cumsum(count) - count, count)
        stop = (self.begin[layer, rank] + turn) % self.size[layer]
        return layer, rank, self.device[layer, stop]

    @cached_property
    def inside(self) -> BoolArray:
        """``[layers, devices]`` whether a device is of the ring."""
        stops = np.arange(self.device.shape[1])
        inside = np.zeros(self.device.shape, dtype=bool)
        np.put_along_axis(inside, self.device, stops < self.size[:, None], axis=1)
        return inside

    @cached_property
    def closed(self) -> BoolArray:
        """``[layers]`` whether the last expert comes around to the first device."""
        spare = np.maximum(self.copies - 1, 0).sum(1)
        return np.asarray((self.size > 1) & (spare >= self.size))

    def load_of(self, load: FloatArray) -> FloatArray:
        """``[layers, most]`` load of the shared experts, 0 where there is none."""
        mine = np.take_along_axis(load, self.expert, axis=1)
        return np.where(self.copies > 0, mine, 0.0)

    def even(self, load: FloatArray) -> FloatArray:
        """``[layers, devices]`` what equal shares put on devices, of ``[layers, experts]``."""
        layer, rank, device = self.replicas
        layers, devices = self.device.shape
        each = self.load_of(load)[layer, rank] / self.copies[layer, rank]
        total = np.bincount(layer * devices + device, each, minlength=layers * devices)
        return total.reshape(layers, devices).astype(float)


def copies_within(load: FloatArray, spare: IntArray, devices: int) -> IntArray:
    """Copies such that the heaviest copy of a row is light.

    Args:
        load: ``[rows, experts]``.
        spare: ``[rows]`` copies of a row beside one of each expert.
        devices: An expert has at most so many copies.

    Returns:
        ``[rows, experts]``; never more than there are, and fewer only where equal loads leave
        no choice.
    """
    low, high = np.zeros((len(load), 1)), load.max(1, keepdims=True)
    most = spare[:, None] + load.shape[1]

    def copies(limit: FloatArray) -> FloatArray:
        return np.clip(np.ceil(load / np.maximum(limit, 1e-300)), 1, devices)

    for _ in range(_HALVINGS):
        limit = (low + high) / 2
        many = copies(limit).sum(1, keepdims=True) > most
        low, high = np.where(many, limit, low), np.where(many, high, limit)
    return copies(high).astype(np.int64)


def ring_of(
    outlook: Outlook, copies: IntArray, node: IntArray, home: IntArray | None = None
) -> Ring:
    """Lay the experts with copies around a ring.

    Args:
        outlook: What is expected, and how far from it what comes may be.
        copies: ``[layers, experts]``; heavier experts have no fewer.
        node: ``[devices]``; those of a node stand together.
        home: ``[layers, experts]`` node by which experts are put in order; only by load
            where it is None.
    """
    load = outlook.load
    layers, devices = len(load), outlook.devices
    shared = (copies > 1).sum(1)
    most = max(1, int(shared.max()))
    expert = np.argsort(np.where(copies > 1, -load, np.inf), axis=1, kind="stable")[:, :most]
    if home is not None:
        group = np.take_along_axis(home, expert, axis=1).astype(float)
        group[np.arange(most) >= shared[:, None]] = np.inf
        expert = np.take_along_axis(expert, np.argsort(group, axis=1, kind="stable"), axis=1)
    mine = np.where(np.arange(most) < shared[:, None], np.take_along_axis(copies, expert, 1), 0)
    spare = np.maximum(mine - 1, 0).sum(1)
    heavy = np.where(copies > 1, load, 0.0).sum(1)
    size = np.maximum(spare + (spare < _CLOSED), np.ceil(heavy / _FULL).astype(np.int64))
    size = np.minimum(np.where(shared > 0, np.minimum(size, spare + shared), 0), devices)
    # Chains end before the ring does: the first at its end, the others with the heaviest.
    ends = np.maximum(size - spare - 1, 0)
    step = np.maximum(mine - 1, 0) + (np.arange(most) < ends[:, None])
    begin = np.cumsum(step, axis=1) - step
    around = np.argsort(node, kind="stable")
    stops = np.arange(devices) * devices // np.maximum(size, 1)[:, None]
    stops = np.where(np.arange(devices) < size[:, None], stops, devices)
    taken = np.zeros((layers, devices + 1), dtype=bool)
    np.put_along_axis(taken, stops, True, axis=1)
    place = np.argsort(~taken[:, :devices], axis=1, kind="stable")
    level = _ring_level(outlook, size)
    return Ring(expert, mine, begin, size, around[place], level)


def _ring_level(outlook: Outlook, size: IntArray) -> FloatArray:
    """``[layers]`` level at which the ring and the highest of the others are as high.

    The ring bears the heaviest experts; the sum of squares of the others' is as large on each
    of the other devices. Their highest lies as far above their mean as that of as many normal
    variables; the ring itself wanders, too.
    """
    devices = outlook.devices
    square = np.sort(-outlook.load, axis=1)
    held = -np.cumsum(square, axis=1)
    inside = held <= size[:, None]
    total = (square**2).sum(1)
    ring = (square**2 * inside).sum(1)
    others = devices - size
    highest = np.array([_highest_of(int(count)) for count in others])
    apart = np.sqrt((total - ring) / np.maximum(others, 1))
    together = np.sqrt(ring) / np.maximum(size, 1)
    ahead = outlook.spread * np.maximum(highest * apart - _TRUST * together, 0)
    return np.asarray(1 + ahead * others / devices)


def _highest_of(count: int) -> float:
    """Expected highest of normal variables (G. Blom, 1958)."""
    return NormalDist().inv_cdf((count - 0.375) / (count + 0.25)) if count > 1 else 0.0
