"""What share of an expert's tokens each replica computes, for replicas that stay where they are.

The shares that minimise the sum of squared device levels also minimise the largest level: the
loads that replicas allow form the base of a polymatroid, whose least vector in the squares is
least in the order of majorisation (S. Fujishige, "Lexicographically optimal base of a
polymatroid with respect to a weight vector", 1980). So one smooth problem gives the optimum of
the linear program for every layer at once. It is solved by projected gradients with momentum
(Y. Nesterov, 1983); the projection of an expert's amounts onto its simplex is C. Michelot's
(1986).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from runtime.experts.arrays import BoolArray, FloatArray, IntArray
from runtime.experts.outlook import Outlook

STEPS = 32
"""Of the solver; 40 leave less than 1e-4 of the mean level on replicas that chain 64 devices."""

_LESS = (0.5, 0.0)  # parts of the regard for links that are tried, too
_RESTART = 40
_PROJECTIONS = 2
_SIZES = (1, 2, 4, 1 << 30)  # tables hold experts with 2, 3 to 4, and more replicas


@dataclass(frozen=True)
class _Table:
    """Experts with about as many replicas, ``[most, experts]`` in the flat array.

    Attributes:
        begin: Where the table begins.
        most: The most replicas of one of them; places of others stay empty.
        total: ``[experts]`` load.
        empty: ``[most, experts]``.
    """

    begin: int
    most: int
    total: FloatArray
    empty: BoolArray

    def of(self, flat: FloatArray) -> FloatArray:
        """The part of a flat array, ``[most, experts]``."""
        end = self.begin + self.most * len(self.total)
        return flat[self.begin : end].reshape(self.most, -1)


@dataclass(frozen=True)
class _Shared:
    """Replicas whose amounts are free, laid out so that projections are a few calls of NumPy.

    Attributes:
        free: ``[replicas]`` true where the expert has more than one replica.
        slot: ``[free]`` where each lies in the flat array.
        place: ``[flat]`` layer and device as one number; one above all where it is empty.
        tables: That the flat array is made of.
        fixed: ``[layers * devices + 1]`` load of experts with one replica.
    """

    free: BoolArray
    slot: IntArray
    place: IntArray
    tables: tuple[_Table, ...]
    fixed: FloatArray


def balanced_amounts(
    keys: IntArray,
    load: FloatArray,
    speed: FloatArray,
    *,
    price: FloatArray | None = None,
    start: FloatArray | None = None,
    steps: int = STEPS,
) -> FloatArray:
    """Split each expert's load over its replicas so that device levels are as even as can be.

    Args:
        keys: ``[replicas]`` as in ``Placement``.
        load: ``[layers, experts]``; a layer sums to the speed of all devices, so that the
            mean level is 1.
        speed: ``[devices]`` load a device takes at level 1; the mean is 1.
        price: ``[replicas]`` level that a token pays for being computed there.
        start: ``[replicas]`` amounts to begin from; equal ones by default.
        steps: Of the solver.

    Returns:
        ``[replicas]`` load of each replica; an expert's sum to its load.
    """
    shared = _split(keys, load, len(speed))
    amounts: FloatArray = load.reshape(-1)[keys // len(speed)].astype(float)
    if not len(shared.slot):
        return amounts
    begin = np.zeros(len(shared.place))
    if start is not None:
        begin[shared.slot] = start[shared.free]
    paid = np.zeros(len(shared.place))
    if price is not None:
        paid[shared.slot] = price[shared.free]
    amounts[shared.free] = _descend(shared, speed, begin, paid, steps)[shared.slot]
    return amounts


def leveled(keys: IntArray, outlook: Outlook, start: FloatArray | None = None) -> FloatArray:
    """``balanced_amounts`` of what is expected; ``start`` as there.

    Replicas may not let loads flow as links would have it; a layer that costs less with levels
    that regard them less is levelled so.
    """
    price = outlook.price_of(keys)

    def levelled(speed: FloatArray) -> FloatArray:
        return balanced_amounts(keys, outlook.load, speed, price=price, start=start)

    best = levelled(outlook.speed)
    if outlook.links is None or not outlook.links.held_back:
        return best
    layer = keys // (outlook.devices * outlook.load.shape[1])
    for part in _LESS:
        amount = levelled(part * outlook.speed + (1 - part) * outlook.links.pace)
        costs = (outlook.costs(keys, each).sum(0) for each in (amount, best))
        best = np.where(np.less(*costs)[layer], amount, best)
    return best


def _split(keys: IntArray, load: FloatArray, devices: int) -> _Shared:
    """Set apart what can be shared; ``load`` is ``[layers, experts]``."""
    layers, experts = load.shape
    group = keys // devices
    place = (group // experts) * devices + keys % devices
    copies = np.bincount(group, minlength=load.size)
    free = copies[group] > 1
    flat = load.reshape(-1)
    fixed = np.bincount(place[~free], flat[group[~free]], minlength=layers * devices + 1)

    expert = np.flatnonzero(copies > 1)
    size = copies[expert]
    rank = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
    slot = np.empty(len(rank), dtype=np.int64)
    tables: list[_Table] = []
    begin = 0
    for low, high in itertools.pairwise(_SIZES):
        mine = (size > low) & (size <= high)
        count, most = int(mine.sum()), int(size[mine].max(initial=0))
        column = begin + np.cumsum(mine) - 1
        inside = np.repeat(mine, size)
        slot[inside] = (np.repeat(column, size) + rank * count)[inside]
        empty = np.arange(most)[:, None] >= size[mine]
        if count:
            tables.append(_Table(begin, most, flat[expert[mine]], empty))
        begin += most * count
    places = np.full(begin, layers * devices)
    places[slot] = place[free]
    return _Shared(free, slot, places, tuple(tables), fixed.astype(float))


def _descend(
    shared: _Shared, speed: FloatArray, begin: FloatArray, paid: FloatArray, steps: int
) -> FloatArray:
    """Amounts in the flat array after so many steps from ``begin``."""
    place, places = shared.place, len(shared.fixed)
    pace = np.append(np.tile(1 / speed, places // len(speed)), 0.0)  # level that a token adds
    steep = (np.bincount(place, minlength=places) * pace)[:-1]
    bound = steep.reshape(-1, len(speed)).max(1)  # [layers] largest curvature
    step = np.append(np.repeat(1 / np.maximum(bound, 1e-300), len(speed)), 0.0)[place]
    now = ahead = _onto_simplex(begin, shared, begin)
    momentum = 1.0
    for count in range(1, steps + 1):
        level = (shared.fixed + np.bincount(place, ahead, minlength=places)) * pace
        after = _onto_simplex(ahead - step * (level[place] + paid), shared, now)
        faster = (1 + np.sqrt(1 + 4 * momentum * momentum)) / 2
        ahead = after + ((momentum - 1) / faster) * (after - now)
        now, momentum = after, (1.0 if count % _RESTART == 0 else faster)
    return now


def _onto_simplex(value: FloatArray, shared: _Shared, before: FloatArray) -> FloatArray:
    """The nearest amounts that are not negative and sum to each expert's load.

    Args:
        value: ``[flat]`` what to project.
        shared: Layout and loads.
        before: ``[flat]`` earlier amounts; what is above zero is looked for there first.
    """
    out = np.empty_like(value)
    for table in shared.tables:
        mine, into, total = table.of(value), table.of(out), table.total
        if table.most == 2:
            np.clip((mine[0] - mine[1] + total) / 2, 0, total, out=into[0])
            np.subtract(total, into[0], out=into[1])
        else:
            _project(mine, into, table, table.of(before) > 0)
    return out


def _project(value: FloatArray, into: FloatArray, table: _Table, above: BoolArray) -> None:
    """As ``_onto_simplex``, for one table."""
    for _ in range(_PROJECTIONS):
        np.multiply(np.where(table.empty, 0.0, value), above, out=into)
        cut = (into.sum(0) - table.total) / np.maximum(above.sum(0), 1)
        above = (value > cut) & ~table.empty
    np.multiply(np.maximum(value - cut, 0), ~table.empty, out=into)
    sums = into.sum(0)
    into *= table.total / np.where(sums > 0, sums, 1)
