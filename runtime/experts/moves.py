"""A few replicas moved: what a placement gains most from, within a bound on transfers.

Rounds alternate between two problems. With replicas where they are, ``shares`` finds the most
even levels. Then the devices whose level is highest each give a replica of their largest expert
to a device whose level is low. All rounds but the first look at the load under stress
(``outlook``): a replica that levels what may come is worth as much as one that levels what is
expected. At the end those that are worth least go, until the bounds on memory hold again.
"""

from __future__ import annotations

import numpy as np

from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.outlook import Outlook
from runtime.experts.proposals import proposals
from runtime.experts.search import SEARCH, Bounds, Search
from runtime.experts.shares import balanced_amounts


def improved(
    keys: IntArray, outlook: Outlook, bounds: Bounds, search: Search = SEARCH
) -> tuple[IntArray, FloatArray | None]:
    """Replicas after at most so many moves.

    Args:
        keys: ``[replicas]`` as in ``Placement``, within the bounds.
        outlook: What is expected.
        bounds: What to keep to.
        search: How long to look.

    Returns:
        ``[replicas]`` keys, and amounts to begin from where there are any.
    """
    before, left, amount = keys, bounds.moves, None
    for turn in range(search.rounds):
        load = outlook.stressed(keys, search.stress if turn else 0.0)
        amount = balanced_amounts(
            keys, load, outlook.speed, price=outlook.price_of(keys), start=amount,
            steps=search.steps,
        )  # fmt: skip
        wanted = proposals(keys, amount, outlook, search)[: -(-left // (search.rounds - turn))]
        keys, amount = _joined(keys, amount, wanted)
        left -= len(wanted)
    keys, amount = _trimmed(keys, amount, outlook, bounds, search)
    # Rarely the last replica of an expert comes to lie where there is no room; then all stay.
    return (before, None) if _excess(keys, bounds) else (keys, amount)


def _joined(keys: IntArray, amount: FloatArray, added: IntArray) -> tuple[IntArray, FloatArray]:
    joined = np.concatenate((keys, added))
    order = np.argsort(joined, kind="stable")
    return joined[order], np.concatenate((amount, np.zeros(len(added))))[order]


def _trimmed(
    keys: IntArray, amount: FloatArray | None, outlook: Outlook, bounds: Bounds, search: Search
) -> tuple[IntArray, FloatArray | None]:
    """Replicas without those that are worth least, until bounds hold or all are the last.

    Crowded devices come first. What is used is judged under stress, and an expert gives one
    replica at a time.
    """
    devices = outlook.devices
    while _excess(keys, bounds):
        load = outlook.stressed(keys, search.stress)
        amount = balanced_amounts(
            keys, load, outlook.speed, price=outlook.price_of(keys), start=amount,
            steps=search.steps,
        )  # fmt: skip
        over = np.bincount(keys % devices, minlength=devices) - bounds.memory
        crowded = over[keys % devices] > 0
        used = np.where(crowded, amount, np.inf) if crowded.any() else amount
        at, worth = dispensable(keys, used, outlook, search.reserve)
        at = at[np.argsort(worth, kind="stable")]
        if crowded.any():
            gone = _turn_of(keys[at] % devices) < over[keys[at] % devices]
        else:
            gone = np.arange(len(at)) < len(keys) - bounds.replicas
        if not gone.any():
            break
        keep = np.ones(len(keys), bool)
        keep[at[gone]] = False
        keys, amount = keys[keep], amount[keep]
    return keys, amount


def within(keys: IntArray, outlook: Outlook, bounds: Bounds) -> tuple[IntArray, int]:
    """Replicas brought within the bounds: spare ones go first, then last ones change devices.

    Args:
        keys: ``[replicas]`` as in ``Placement``.
        outlook: What is expected.
        bounds: Those on memory and on replicas are looked at.

    Returns:
        ``[replicas]`` keys, and how many of them are new. Devices have room together for
        every expert, so that the bounds can always be kept.
    """
    keys, _ = _trimmed(keys, None, outlook, bounds, SEARCH)
    return _relocated(keys, outlook, bounds) if _excess(keys, bounds) else (keys, 0)


def _excess(keys: IntArray, bounds: Bounds) -> bool:
    devices = len(bounds.memory)
    held = np.bincount(keys % devices, minlength=devices)
    return bool(len(keys) > bounds.replicas or np.any(held > bounds.memory))


def _relocated(keys: IntArray, outlook: Outlook, bounds: Bounds) -> tuple[IntArray, int]:
    """The lightest experts of devices that hold too much, each to the emptiest without it."""
    devices = outlook.devices
    group, device = keys // devices, keys % devices
    room = bounds.memory - np.bincount(device, minlength=devices)
    load = outlook.load.reshape(-1)[group]
    present, changed, moved = set(keys.tolist()), keys.copy(), 0
    for crowded in np.flatnonzero(room < 0):
        mine = np.flatnonzero(device == crowded)
        for at in mine[np.argsort(load[mine], kind="stable")]:
            fits = [d for d in np.flatnonzero(room > 0) if group[at] * devices + d not in present]
            if room[crowded] >= 0 or not fits:
                continue
            to = max(fits, key=lambda d: room[d] / bounds.memory[d])
            changed[at] = group[at] * devices + to
            present.add(int(changed[at]))
            room[crowded] += 1
            room[to] -= 1
            moved += 1
    return np.sort(changed), moved


def dispensable(
    keys: IntArray, used: FloatArray, outlook: Outlook, reserve: float
) -> tuple[IntArray, FloatArray]:
    """Of each expert with replicas to spare the one used least, and what it is worth.

    Args:
        keys: ``[replicas]`` as in ``Placement``.
        used: ``[replicas]`` what each computes; infinite where it stays in any case.
        outlook: What is expected.
        reserve: Worth of a replica for later, in parts of its expert's load a replica.

    Returns:
        Indices and worth.
    """
    group = keys // outlook.devices
    first = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    copies = np.diff(np.append(first, len(group)))
    least = np.minimum.reduceat(used, first)
    at = np.flatnonzero(used == np.repeat(least, copies))
    at = at[np.unique(group[at], return_index=True)[1]]
    spare = (copies > 1) & np.isfinite(least)
    later = reserve * outlook.load.reshape(-1)[group[first[spare]]] / copies[spare]
    return at[spare], least[spare] + later


def _turn_of(values: IntArray) -> IntArray:
    """``[n]`` how many equal values stand before each."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    turn = np.empty(len(values), dtype=np.int64)
    turn[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return turn
