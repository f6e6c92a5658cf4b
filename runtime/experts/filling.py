"""A placement from nothing: light experts whole, heavy ones poured over what devices lack.

Pouring is the wrap-around rule (R. McNaughton, "Scheduling with deadlines and loss functions",
1959): lay the heavy experts end to end, lay what the devices lack end to end, and cut one line
by the other. Two lines of h and d pieces are cut into at most h + d - 1, so that experts + devices
- 1 replicas are enough for levels that are exactly equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.experts.arrays import BoolArray, FloatArray, IntArray

_NOTHING = 1e-12
_FULL = 1e6  # level that stands for a device without room
_ELSEWHERE = 1e3  # and for one on the other side


@dataclass(frozen=True)
class Room:
    """What devices take, beside what is on them before.

    Attributes:
        speed: ``[devices]``.
        places: ``[devices]`` experts that a device takes in a layer.
        base: ``[layers, devices]`` load that is there.
        inside: ``[layers, devices]`` devices that take the heaviest experts.
        capacity: ``[layers]`` load that those take together, ``base`` included.
        risk: What the root of the sum of the squares of the loads on one of the other devices
            counts, as load: nothing levels it when it grows.
    """

    speed: FloatArray
    places: IntArray
    base: FloatArray
    inside: BoolArray
    capacity: FloatArray
    risk: float = 0.0


def pack_whole(
    load: FloatArray,
    order: IntArray,
    shared: BoolArray,
    room: Room,
    price: FloatArray | None = None,
) -> tuple[IntArray, FloatArray]:
    """Heaviest first, each to the device where the level is least and there is room.

    Args:
        load: ``[layers, experts]``, of mean level 1.
        order: ``[layers, experts]`` experts by falling load.
        shared: ``[layers, experts]`` those are left out.
        room: Where to.
        price: ``[layers, experts, devices]`` level that an expert pays for a device.

    Returns:
        Device of each expert, ``[layers, experts]``, -1 where it is left out, and the load
        of the devices, ``[layers, devices]``, that of ``room.base`` included.
    """  # fmt: skip
    layers, experts = load.shape
    row, speed = np.arange(layers), room.speed
    base = room.base.copy()
    left = room.capacity - base.sum(1)
    lone = np.where(room.inside, 0.0, room.risk)
    square = np.zeros_like(base)
    free = np.tile(room.places, (layers, 1))
    device = np.full((layers, experts), -1, dtype=np.int64)
    first = int((~np.take_along_axis(shared, order, 1)).argmax(1).min())
    for rank in range(first, experts):
        expert = order[:, rank]
        weight = load[row, expert]
        now = ~shared[row, expert]
        fits = weight <= left
        level = base + weight[:, None]
        if room.risk:
            level = level + lone * np.sqrt(square + (weight * weight)[:, None])
        level = level / speed
        if price is not None:
            level = level + price[row, expert]
        level = np.where(room.inside == fits[:, None], level, level + _ELSEWHERE)
        to = np.where(free > 0, level, level + _FULL).argmin(1)
        into, at, more = row[now], to[now], weight[now]
        device[into, expert[now]] = at
        base[into, at] += more
        square[into, at] += more * more
        free[into, at] -= 1
        left[into] -= more * room.inside[into, at]
    return device, base


def pour(heavy: FloatArray, lack: FloatArray) -> FloatArray:
    """Cut the line of heavy experts by the line of what devices lack.

    Args:
        heavy: ``[layers, heavy experts]`` load, zero where there is none.
        lack: ``[layers, devices]`` not negative; sums to as much as the heavy.

    Returns:
        ``[layers, heavy experts, devices]`` amounts; an expert's sum to its load, and at most
        heavy experts + devices - 1 of a layer are above zero.
    """
    ends, bounds = np.cumsum(heavy, axis=1), np.cumsum(lack, axis=1)
    ends[:, -1] = bounds[:, -1] = np.maximum(ends[:, -1], bounds[:, -1])
    low = np.maximum((ends - heavy)[:, :, None], (bounds - lack)[:, None, :])
    high = np.minimum(ends[:, :, None], bounds[:, None, :])
    amount = high - low
    return np.where(amount > _NOTHING * bounds[:, -1, None, None], amount, 0.0)


def exact_fill(load: FloatArray, devices: int, room: int) -> list[tuple[int, int, float]]:
    """Fill equal devices one after the other, exactly, each with at most ``room`` replicas.

    A device takes some whole experts and a piece of one more. There always are such: walk
    from the lightest ``room`` experts to heavier ones, one swap at a time, until they are
    too much together; the one that was swapped in last is the one to cut. Each device but
    the last cuts at most one expert, so experts + devices - 1 replicas are enough, and
    ``room * devices`` places of at least that many are, too (docs/experts.md has the proof;
    two places on each of as many devices as experts is A. Walker's alias method of 1977).

    Args:
        load: ``[experts]`` that sums to ``devices``.
        devices: Number of devices.
        room: Replicas that a device holds; ``room * devices >= experts + devices - 1``.

    Returns:
        Expert, device and amount of each replica.
    """
    left = [(float(weight), expert) for expert, weight in enumerate(load)]
    filled: list[tuple[int, int, float]] = []
    for device in range(devices):
        left.sort()
        if device == devices - 1:
            filled.extend((expert, device, weight) for weight, expert in left)
            break
        chosen, cut = _whole_and_cut([weight for weight, _ in left], room)
        need = 1.0
        for index in chosen:
            weight, expert = left[index]
            filled.append((expert, device, weight))
            need -= weight
        weight, expert = left[cut]
        rest = [item for index, item in enumerate(left) if index not in chosen and index != cut]
        if need > _NOTHING:
            filled.append((expert, device, min(need, weight)))
        if weight - need > _NOTHING or need <= _NOTHING:
            rest.append((weight - max(need, 0.0), expert))
        left = rest
    return filled


def _whole_and_cut(weights: list[float], room: int) -> tuple[set[int], int]:
    """Indices of experts that fit whole, and of the one that fills the rest of the device.

    Args:
        weights: Ascending; all together at least 1.
        room: Experts a device holds.
    """
    count = min(room, len(weights))
    picked, total = list(range(count)), sum(weights[:count])
    if total >= 1 - _NOTHING:
        while total - weights[picked[-1]] > 1:  # fewer than there is room for are enough
            total -= weights[picked.pop()]
        return set(picked[:-1]), picked[-1]
    for slot in range(count - 1, -1, -1):
        last = len(weights) - (count - slot)
        while picked[slot] < last:
            total += weights[picked[slot] + 1] - weights[picked[slot]]
            picked[slot] += 1
            if total >= 1 - _NOTHING:
                return set(picked) - {picked[slot]}, picked[slot]
    return set(picked[:-1]), picked[-1]


def level_labels(held: IntArray, kind: IntArray) -> IntArray:
    """Rename devices of one kind, layer by layer, so that all hold as many replicas in total.

    Args:
        held: ``[layers, devices]`` replicas before.
        kind: ``[devices]`` devices of equal number may change names.

    Returns:
        ``[layers, devices]`` the new name of each device.
    """
    layers, devices = held.shape
    name = np.tile(np.arange(devices), (layers, 1))
    total = np.zeros(devices, dtype=np.int64)
    groups = [np.flatnonzero(kind == each) for each in np.unique(kind)]
    for layer in range(layers):
        for group in groups:
            fullest = group[np.argsort(-held[layer, group], kind="stable")]
            emptiest = group[np.argsort(total[group], kind="stable")]
            name[layer, fullest] = emptiest
            total[emptiest] += held[layer, fullest]
    held_by = np.empty_like(held)
    np.put_along_axis(held_by, name, held, axis=1)
    for group in groups:
        _swap_until_even(held_by, name, group)
    return name


def _swap_until_even(held_by: IntArray, name: IntArray, group: IntArray) -> None:
    """Let the fullest or the emptiest change its name with another, as long as that evens.

    Args:
        held_by: ``[layers, devices]`` replicas by new name; changed in place.
        name: ``[layers, devices]`` new names; changed in place.
        group: Devices that may change.
    """
    mine = held_by[:, group]
    total = mine.sum(0)
    stuck = False
    while total.max() - total.min() > 1 and not stuck:
        stuck = True
        for one in (int(total.argmax()), int(total.argmin())):
            apart, more = total[one] - total, mine[:, one : one + 1] - mine
            evened = np.where(more * apart > 0, more * (apart - more), 0)
            layer, other = (int(at) for at in np.unravel_index(evened.argmax(), evened.shape))
            if evened[layer, other] <= 0:
                continue
            stuck = False
            moved = mine[layer, one] - mine[layer, other]
            total[[one, other]] += np.array([-moved, moved])
            mine[layer, [one, other]] = mine[layer, [other, one]]
            row, (first, second) = name[layer], (group[one], group[other])
            was_first, was_second = row == first, row == second
            row[was_first], row[was_second] = second, first


def is_exact(level: FloatArray, tolerance: float = 1e-9) -> BoolArray:
    """``[layers]`` true where all devices have the same level."""
    return np.asarray(level.max(1) - level.min(1) <= tolerance)
