"""A placement to begin with, or to begin again: a ring of heavy experts, light ones packed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.certificate import cost_of
from runtime.experts.devices import Devices
from runtime.experts.filling import (
    Room,
    exact_fill,
    is_exact,
    level_labels,
    pack_whole,
    pour,
)
from runtime.experts.flows import MOST_DEVICES, rearranged
from runtime.experts.moves import improved, within
from runtime.experts.outlook import Outlook
from runtime.experts.ring import Ring, copies_within, ring_of
from runtime.experts.search import Bounds, Search
from runtime.experts.shares import leveled

_RISK = 1.5
"""Standard deviations of what nothing levels that count as load."""
_PLACES = (2.0, 1.5, 1.0)
"""Experts that a device takes in a layer, at most, in units of what is its part by memory.
Devices change names from layer to layer; where that does not keep to memory, fewer are taken."""
PRICED = 10
"""Moves of a layer after which a placement that was made without prices suits them."""
_ROUNDS = 4
"""Of so many moves a layer at most, after which a ring suits devices that are to take unlike
loads: slow ones hold as many experts as others, but light ones."""
_LEAST_GAIN = 0.01
"""Of the cost, for which another round is worth its time."""


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
    keys, amount = _filled(outlook, bounds, devices, search)
    if outlook.price is not None or np.ptp(outlook.speed) == 0 or devices.count > MOST_DEVICES:
        return keys, amount
    cost = cost_of(keys, amount, outlook, 0).total
    for _ in range(_ROUNDS):
        moves = replace(bounds, moves=PRICED * len(outlook.load))
        changed = rearranged(keys, outlook, moves, search)
        again = leveled(changed, outlook)
        before, now = cost, cost_of(changed, again, outlook, 0).total
        if now < before:
            keys, amount, cost = changed, again, now
        if now > (1 - _LEAST_GAIN) * before:
            break
    return keys, amount


def _filled(
    outlook: Outlook, bounds: Bounds, devices: Devices, search: Search
) -> tuple[IntArray, FloatArray]:
    """A ring, light experts beside it, and what is left of the replicas where they help most."""
    for places in _PLACES:
        keys, amount = _renamed(*_laid(outlook, bounds, devices, places), outlook, devices)
        if np.all(np.bincount(keys % devices.count, minlength=devices.count) <= bounds.memory):
            break
    else:
        room = int(bounds.memory.min()) // len(outlook.load)
        if _can_be_exact(outlook, bounds, room):
            return _exact(np.arange(len(outlook.load)), outlook, room)
    if outlook.price is not None:
        suits = replace(bounds, moves=PRICED * len(outlook.load))
        keys, start = improved(keys, outlook, suits, search)
        amount = leveled(keys, outlook, start)
    kept, _ = within(keys, outlook, bounds)
    whole = len(kept) == len(keys) and bool(np.all(kept == keys))
    room = bounds.replicas - len(kept)
    if whole and room == 0:
        return keys, amount
    more, start = improved(kept, outlook, replace(bounds, moves=room), search)
    if whole:
        start = np.zeros(len(more))
        there = np.isin(keys, more)
        start[np.searchsorted(more, keys[there])] = amount[there]
    return more, leveled(more, outlook, start)


def _can_be_exact(outlook: Outlook, bounds: Bounds, room: int) -> bool:
    """Whether so many places of a layer on each device are enough for even levels.

    That is for a load that is known: what may come otherwise is better borne by a ring.
    """
    layers, experts = outlook.load.shape
    needed = experts + outlook.devices - 1
    return (
        outlook.price is None
        and outlook.spread == 0
        and bool(np.ptp(outlook.speed) == 0)
        and min(bounds.replicas // layers, room * outlook.devices) >= needed
    )


def _laid(
    outlook: Outlook, bounds: Bounds, devices: Devices, places: float
) -> tuple[IntArray, FloatArray]:
    """Around a ring, exactly even where there are replicas for it."""
    layers, experts = outlook.load.shape
    spare = bounds.replicas // layers - experts
    if spare < outlook.devices - 1:
        return _woven(outlook, devices, bounds.replicas - layers * experts, places)
    keys, amount = _poured(outlook, devices, min(spare, outlook.devices), places)
    if np.all(outlook.speed == outlook.speed[0]) and outlook.price is None:
        room = -(-(experts + outlook.devices - 1) // outlook.devices)
        return _made_exact(keys, amount, outlook, experts + spare, room)
    return keys, amount


def _woven(
    outlook: Outlook, devices: Devices, spare: int, places: float
) -> tuple[IntArray, FloatArray]:
    """A ring of some devices: for fewer places than all of them take."""
    load, count = outlook.load, outlook.devices
    experts = load.shape[1]
    copies = copies_within(load.reshape(1, -1), np.array([spare]), count).reshape(load.shape)
    ring = _ring(outlook, devices, copies)
    device, _ = _packed(outlook, devices, ring, copies, places)
    layer, expert = np.nonzero(device >= 0)
    at_layer, rank, at = ring.replicas
    keys = np.unique(np.concatenate((
        (layer * experts + expert) * count + device[layer, expert],
        (at_layer * experts + ring.expert[at_layer, rank]) * count + at,
    )))  # fmt: skip
    return keys, leveled(keys, outlook)


def _poured(
    outlook: Outlook, devices: Devices, spare: int, places: float
) -> tuple[IntArray, FloatArray]:
    """A ring of all devices, its experts poured over what devices lack: exactly even."""
    load, speed, count = outlook.load, outlook.speed, outlook.devices
    layers, experts = load.shape
    copies = copies_within(load, np.full(layers, spare), count)
    ring = _ring(outlook, devices, copies)
    device, base = _packed(outlook, devices, ring, copies, places)
    lack = np.maximum(speed - (base - ring.even(load)), 0)
    line = ring.load_of(load)
    lack *= line.sum(1, keepdims=True) / np.maximum(lack.sum(1, keepdims=True), 1e-300)
    # Of a ring that is closed the last expert begins the line, too, on the first device.
    row, last = np.arange(layers), np.maximum((copies > 1).sum(1) - 1, 0)
    tail = np.where(ring.closed, line[row, last] / np.maximum(ring.copies[row, last], 1), 0.0)
    line[row, last] -= tail
    line = np.concatenate((tail[:, None], line), axis=1)
    whose = np.concatenate((ring.expert[row, last][:, None], ring.expert), axis=1)
    poured = pour(line, np.take_along_axis(lack, ring.device, axis=1))
    layer, expert = np.nonzero(device >= 0)
    at_layer, rank, stop = np.nonzero(poured)
    keys = np.concatenate((
        (layer * experts + expert) * count + device[layer, expert],
        (at_layer * experts + whose[at_layer, rank]) * count + ring.device[at_layer, stop],
    ))  # fmt: skip
    amount = np.concatenate((load[layer, expert], poured[at_layer, rank, stop]))
    return _with_idle(keys, amount, load, count)


def _ring(outlook: Outlook, devices: Devices, copies: IntArray) -> Ring:
    home = None if outlook.price is None else devices.node[outlook.price.argmin(2)]
    return ring_of(outlook, copies, devices.node, home)


def _packed(
    outlook: Outlook, devices: Devices, ring: Ring, copies: IntArray, places: float
) -> tuple[IntArray, FloatArray]:
    """Experts of one copy, beside what the ring puts on devices in equal shares."""
    load, speed = outlook.load, outlook.speed
    inside = ring.inside
    everywhere = ring.size == outlook.devices
    room = Room(
        speed,
        np.ceil(places * load.shape[1] * (devices.memory / devices.memory.sum())).astype(np.int64),
        ring.even(load),
        inside,
        np.where(everywhere, np.inf, ring.level * (inside * speed).sum(1)),
        _RISK * outlook.spread,
    )
    order = np.argsort(-load, axis=1, kind="stable")
    return pack_whole(load, order, copies > 1, room, outlook.price)


def _with_idle(
    keys: IntArray, amount: FloatArray, load: FloatArray, devices: int
) -> tuple[IntArray, FloatArray]:
    """In order, each once, and with a replica of each expert that has no load to pour."""
    idle = np.setdiff1d(np.arange(load.size), keys // devices)
    keys = np.concatenate((keys, idle * devices + idle % devices))
    amount = np.concatenate((amount, load.reshape(-1)[idle]))
    kept, place = np.unique(keys, return_inverse=True)
    return kept, np.bincount(place, amount, minlength=len(kept)).astype(float)


def _made_exact(
    keys: IntArray, amount: FloatArray, outlook: Outlook, most: int, room: int
) -> tuple[IntArray, FloatArray]:
    """Layers whose levels differ, or that took too many replicas, filled device by device."""
    layers, experts = outlook.load.shape
    count = outlook.devices
    layer = keys // (count * experts)
    place = layer * count + keys % count
    total = np.bincount(place, amount, minlength=layers * count)
    level: FloatArray = total.reshape(layers, count).astype(float)
    many = np.bincount(layer, minlength=layers) > most
    again = np.flatnonzero(~is_exact(level) | many)
    kept = ~np.isin(layer, again)
    more, filled = _exact(again, outlook, room)
    joined = np.concatenate((keys[kept], more))
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate((amount[kept], filled))[order]


def _exact(layers: IntArray, outlook: Outlook, room: int) -> tuple[IntArray, FloatArray]:
    """Keys and amounts of some layers, with so many replicas on a device at most."""
    count, experts = outlook.devices, outlook.load.shape[1]
    keys, amounts = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for each in layers:
        filled = exact_fill(outlook.load[each], count, room)
        expert, device, part = (np.array(column) for column in zip(*filled, strict=True))
        keys.append((each * experts + expert) * count + device)
        amounts.append(part)
    joined = np.concatenate(keys)
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
    node = np.zeros(count) if outlook.price is None else devices.node
    alike = np.stack((outlook.speed, devices.memory, node))
    kind = np.unique(alike, axis=1, return_inverse=True)[1].reshape(-1)
    name = level_labels(held.reshape(layers, count), kind)
    renamed = keys // count * count + name[layer, keys % count]
    order = np.argsort(renamed, kind="stable")
    return renamed[order], amount[order]
