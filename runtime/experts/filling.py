"""A placement from nothing: light experts whole, heavy ones poured over what devices lack.

Pouring is the wrap-around rule (R. McNaughton, "Scheduling with deadlines and loss functions",
1959): lay the heavy experts end to end, lay what the devices lack end to end, and cut one line
by the other. Two lines of h and d pieces are cut into at most h + d - 1, so that experts + devices
- 1 replicas are enough for levels that are exactly equal.
"""

from __future__ import annotations

import numpy as np

from runtime.experts.arrays import BoolArray, FloatArray, IntArray

POURED = 0.4
"""Part of a layer's load that is poured. What is poured can follow the load later on, so more
is better until light experts are split, whose shares move little."""

_AT_MOST = 4  # one expert in so many is poured
_NOTHING = 1e-12
_HALVINGS = 40
_FULL = 1e6  # level that stands for a device without room


def heavy_experts(load: FloatArray) -> IntArray:
    """How many experts of each layer are poured.

    Args:
        load: ``[layers, experts]``.

    Returns:
        ``[layers]``, the fewest of the heaviest that hold ``POURED`` of the load, at most a
        quarter of the experts.
    """
    falling = -np.sort(-load, axis=1)
    held = np.cumsum(falling, axis=1) / falling.sum(1, keepdims=True)
    count = (held < POURED).sum(1) + 1
    most = max(1, load.shape[1] // _AT_MOST)
    return np.asarray(np.minimum(count, most), dtype=np.int64)


def pack_whole(
    load: FloatArray,
    order: IntArray,
    skipped: IntArray,
    speed: FloatArray,
    room: IntArray,
    price: FloatArray | None = None,
) -> tuple[IntArray, FloatArray]:
    """Heaviest first, each to the device where the level is least and there is room.

    Args:
        load: ``[layers, experts]``, of mean level 1.
        order: ``[layers, experts]`` experts by falling load.
        skipped: ``[layers]`` so many of the heaviest are left out.
        speed: ``[devices]``.
        room: ``[devices]`` experts that a device takes in a layer.
        price: ``[layers, experts, devices]`` level that an expert pays for a device.

    Returns:
        Device of each expert, ``[layers, experts]``, -1 where it is left out, and the load
        of the devices, ``[layers, devices]``.
    """  # fmt: skip
    layers, experts = load.shape
    row = np.arange(layers)
    base = np.zeros((layers, len(speed)))
    free = np.tile(room, (layers, 1))
    device = np.full((layers, experts), -1, dtype=np.int64)
    for rank in range(int(skipped.min()), experts):
        expert = order[:, rank]
        weight = load[row, expert]
        level = (base + weight[:, None]) / speed
        if price is not None:
            level = level + price[row, expert]
        to = np.where(free > 0, level, np.inf).argmin(1)
        now = row[rank >= skipped]
        expert, to = expert[now], to[now]
        device[now, expert] = to
        base[now, to] += weight[now]
        free[now, to] -= 1
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


def copies_within(load: FloatArray, replicas: int, devices: int) -> IntArray:
    """As many copies of experts as there are replicas for, so that the heaviest copy is light.

    Layers share the replicas: one with heavier experts gets more.

    Args:
        load: ``[layers, experts]``, of mean level 1.
        replicas: Of all layers, at least one for each expert.
        devices: An expert has at most so many copies.

    Returns:
        ``[layers, experts]``.
    """
    low, high = 0.0, float(load.max())
    for _ in range(_HALVINGS):
        limit = (low + high) / 2
        if np.maximum(np.ceil(load / max(limit, 1e-300)), 1).sum() > replicas:
            low = limit
        else:
            high = limit
    copies = np.ceil(load / high) if high > 0 else np.ones(load.shape)
    return np.clip(copies, 1, devices).astype(np.int64)


def pack_copies(
    load: FloatArray,
    copies: IntArray,
    speed: FloatArray,
    room: IntArray,
    price: FloatArray | None = None,
    risk: float = 0.0,
) -> tuple[IntArray, IntArray, IntArray]:
    """Copies, the heaviest first, each to the lowest level with room and none of its expert.

    Args:
        load: ``[layers, experts]``, of mean level 1.
        copies: ``[layers, experts]``.
        speed: ``[devices]``.
        room: ``[devices]`` replicas that a device takes in a layer.
        price: ``[layers, experts, devices]`` level that a token pays for a device.
        risk: What the root of the sum of the squares of a device's single experts counts,
            as level: their load cannot go elsewhere when it grows.

    Returns:
        Layer, expert and device of each replica.
    """  # fmt: skip
    layers = len(load)
    each = load / copies
    order = np.argsort(-each, axis=1, kind="stable")
    total = copies.sum(1)
    item = np.full((layers, int(total.max())), -1, dtype=np.int64)  # [layers, most replicas]
    repeated = np.repeat(order.reshape(-1), np.take_along_axis(copies, order, 1).reshape(-1))
    item[np.arange(item.shape[1]) < total[:, None]] = repeated
    level = np.zeros((layers, len(speed)))
    free = np.tile(room, (layers, 1))
    holds = np.zeros((layers, len(speed)), dtype=bool)
    square = np.zeros((layers, len(speed)))
    device = np.full(item.shape, -1, dtype=np.int64)
    for at in range(item.shape[1]):
        row = np.flatnonzero(item[:, at] >= 0)
        expert = item[row, at]
        if at:
            holds[row[expert != item[row, at - 1]]] = False
        mine = each[row, expert][:, None]
        single = (copies[row, expert] == 1)[:, None]
        cost = level[row] + mine / speed + risk * np.sqrt(square[row] + single * mine**2) / speed
        if price is not None:
            cost = cost + price[row, expert]
        # Where all with room hold the expert, room gives way: memory is looked after later.
        cost = cost + np.where(free[row] > 0, 0.0, _FULL) + np.where(holds[row], np.inf, 0.0)
        to = cost.argmin(1)
        device[row, at] = to
        level[row, to] += each[row, expert] / speed[to]
        square[row, to] += np.where(copies[row, expert] == 1, each[row, expert] ** 2, 0.0)
        free[row, to] -= 1
        holds[row, to] = True
    layer, at_item = np.nonzero(item >= 0)
    return layer, item[layer, at_item], device[layer, at_item]


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
    return name


def is_exact(level: FloatArray, tolerance: float = 1e-9) -> BoolArray:
    """``[layers]`` true where all devices have the same level."""
    return np.asarray(level.max(1) - level.min(1) <= tolerance)
