"""A placement to begin with, or to begin again: packed, poured, and brought within limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.devices import Devices
from runtime.experts.filling import (
    copies_within,
    exact_fill,
    heavy_experts,
    is_exact,
    level_labels,
    pack_copies,
    pack_whole,
    pour,
)  # fmt: skip
from runtime.experts.moves import improved, within
from runtime.experts.outlook import Outlook
from runtime.experts.search import Bounds, Search
from runtime.experts.shares import balanced_amounts

_RISK = 2.0
"""Standard deviations of a device's whole experts that count as load when copies are packed."""


def begun(
    outlook: Outlook, bounds: Bounds, devices: Devices, search: Search
) -> tuple[IntArray, FloatArray]:
    """Place every expert anew.

    Where devices are equal and free of price, and there are places for experts + devices -
    1 replicas a layer, levels come out exactly equal.

    Args:
        outlook: What is expected.
        bounds: On replicas and memory.
        devices: The devices.
        search: How long to look for what fits into places that are left.

    Returns:
        Keys and amounts, ``[replicas]`` each.
    """
    layers, experts = outlook.load.shape
    fits = bounds.replicas >= layers * (experts + outlook.devices - 1)
    keys, amount = _poured(outlook, devices) if fits else _packed(outlook, bounds, devices)
    if fits and devices.equal and outlook.price is None:
        keys, amount = _made_exact(keys, amount, outlook)
    keys, amount = _renamed(keys, amount, outlook, devices)
    kept, _ = within(keys, outlook, bounds)
    whole = len(kept) == len(keys) and bool(np.all(kept == keys))
    room = bounds.replicas - len(kept)
    if whole and room == 0:
        return keys, amount
    limits = replace(bounds, moves=room if whole else bounds.replicas)
    more, start = improved(kept, outlook, limits, search)
    if whole:
        start = np.zeros(len(more))
        there = np.isin(keys, more)
        start[np.searchsorted(more, keys[there])] = amount[there]
    price = outlook.price_of(more)
    return more, balanced_amounts(more, outlook.load, outlook.speed, price=price, start=start)


def _packed(outlook: Outlook, bounds: Bounds, devices: Devices) -> tuple[IntArray, FloatArray]:
    """Copies of the heaviest experts, packed: for fewer places than pouring takes."""
    load, speed = outlook.load, outlook.speed
    copies = copies_within(load, bounds.replicas, len(speed))
    parts = devices.memory / devices.memory.sum()
    room = np.ceil(copies.sum(1).max() * parts).astype(np.int64)
    layer, expert, device = pack_copies(
        load, copies, speed, room, outlook.price, _RISK * outlook.spread
    )
    keys = np.sort((layer * load.shape[1] + expert) * len(speed) + device)
    return keys, balanced_amounts(keys, load, speed, price=outlook.price_of(keys))


def _poured(outlook: Outlook, devices: Devices) -> tuple[IntArray, FloatArray]:
    """Light experts packed whole, heavy ones poured over the rest, those of a node together."""
    load, speed = outlook.load, outlook.speed
    experts = load.shape[1]
    order = np.argsort(-load, axis=1, kind="stable")
    skipped = heavy_experts(load)
    room = np.ceil(experts * (devices.memory / devices.memory.sum())).astype(np.int64)
    device, base = pack_whole(load, order, skipped, speed, room, outlook.price)
    most = int(skipped.max())
    heavy = order[:, :most]
    carried = np.take_along_axis(load, heavy, axis=1) * (np.arange(most) < skipped[:, None])
    if outlook.price is not None:
        home = np.take_along_axis(outlook.price, heavy[:, :, None], axis=1).argmin(2)
        turn = np.argsort(home, axis=1, kind="stable")
        heavy = np.take_along_axis(heavy, turn, axis=1)
        carried = np.take_along_axis(carried, turn, axis=1)
    lack = np.maximum(speed - base, 0)
    lack *= carried.sum(1, keepdims=True) / np.maximum(lack.sum(1, keepdims=True), 1e-300)
    poured = pour(carried, lack)
    layer, expert = np.nonzero(device >= 0)
    at_layer, rank, at = np.nonzero(poured)
    count = len(speed)
    keys = np.concatenate((
        (layer * experts + expert) * count + device[layer, expert],
        (at_layer * experts + heavy[at_layer, rank]) * count + at,
    ))  # fmt: skip
    amount = np.concatenate((load[layer, expert], poured[at_layer, rank, at]))
    return _with_idle(keys, amount, load, count)


def _with_idle(
    keys: IntArray, amount: FloatArray, load: FloatArray, devices: int
) -> tuple[IntArray, FloatArray]:
    """In order, and with a replica of each expert that has no load to pour."""
    idle = np.setdiff1d(np.arange(load.size), keys // devices)
    keys = np.concatenate((keys, idle * devices + idle % devices))
    amount = np.concatenate((amount, load.reshape(-1)[idle]))
    order = np.argsort(keys, kind="stable")
    return keys[order], amount[order]


def _made_exact(
    keys: IntArray, amount: FloatArray, outlook: Outlook
) -> tuple[IntArray, FloatArray]:
    """Layers whose levels differ, or that took too many replicas, filled device by device."""
    layers, experts = outlook.load.shape
    count = outlook.devices
    layer = keys // (count * experts)
    place = layer * count + keys % count
    total = np.bincount(place, amount, minlength=layers * count)
    level: FloatArray = total.reshape(layers, count).astype(float)
    many = np.bincount(layer, minlength=layers) > experts + count - 1
    again = np.flatnonzero(~is_exact(level) | many)
    kept = ~np.isin(layer, again)
    all_keys, amounts = [keys[kept]], [amount[kept]]
    room = -(-(experts + count - 1) // count)
    for each in again:
        filled = exact_fill(outlook.load[each], count, room)
        expert, device, part = (np.array(column) for column in zip(*filled, strict=True))
        all_keys.append((each * experts + expert) * count + device)
        amounts.append(part)
    joined = np.concatenate(all_keys)
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate(amounts)[order]


def _renamed(
    keys: IntArray, amount: FloatArray, outlook: Outlook, devices: Devices
) -> tuple[IntArray, FloatArray]:
    """Devices alike change names in a layer, so that all of them hold as much."""
    layers, experts = outlook.load.shape
    count = outlook.devices
    layer = keys // (count * experts)
    held = np.bincount(layer * count + keys % count, minlength=layers * count)
    alike = np.stack((devices.speed, devices.memory, devices.node))
    kind = np.unique(alike, axis=1, return_inverse=True)[1].reshape(-1)
    name = level_labels(held.reshape(layers, count), kind)
    renamed = keys // count * count + name[layer, keys % count]
    order = np.argsort(renamed, kind="stable")
    return renamed[order], amount[order]
