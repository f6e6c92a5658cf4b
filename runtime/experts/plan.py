"""Where replicas go: a placement for the load that is expected, with what it promises.

``plan`` is the way through: predict, take over or begin, move, share, certify. How levels are
evened is in ``shares``, how a placement begins in ``filling``, how it changes in ``moves``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.begin import PRICED, begun
from runtime.experts.certificate import Certificate, cost_of, lower_bound
from runtime.experts.devices import Devices
from runtime.experts.flows import MOST_DEVICES, rearranged
from runtime.experts.limits import bounds_for, check_form
from runtime.experts.link_prices import suited
from runtime.experts.moves import improved, within
from runtime.experts.outlook import Outlook
from runtime.experts.placement import Placement
from runtime.experts.predict import Forecast, check_counts, forecast
from runtime.experts.search import SEARCH, Bounds, Search
from runtime.experts.shares import leveled
from runtime.experts.terms import FREE, Cost, Terms
from runtime.experts.thinning import thinned
from runtime.tensors import Array

_ROUNDS = 6
"""At the prices that companions have in the plan of the round before."""


@dataclass(frozen=True)
class Plan:
    """A placement and what it promises."""

    placement: Placement
    certificate: Certificate


def plan(
    load: Array,
    devices: Devices,
    slots: int,
    current: Placement | None = None,
    *,
    moves: int | None = None,
    terms: Terms = FREE,
    search: Search = SEARCH,
) -> Plan:
    """Place experts for the window that comes.

    Args:
        load: ``[windows, layers, experts]`` tokens of the past windows, the oldest first, to
            predict from; or ``[layers, experts]`` as expected.
        devices: The devices.
        slots: Replica places of one layer on all devices. Layers share the places of all:
            one that needs more replicas gets more.
        current: The placement to change.
        moves: New replicas at most, over all layers; any number by default.
        terms: Links, and prices of communication and memory.
        search: How long to look for moves.

    Raises:
        PlacementError: The load is none, or no placement keeps to the limits; the text names
            the constraint that breaks.
    """
    expected = forecast(load if load.ndim == 3 else load[None])
    bounds = bounds_for(expected.load, devices, slots, current, moves)
    outlook = outlook_of(expected, devices, current, terms)
    if current is None or moves is None:
        keys, amount = begun(outlook, bounds, devices, search)
    else:
        keys, amount = _changed(current, outlook, bounds, search)
    if terms.memory:
        keys, amount = thinned(keys, amount, outlook, terms.memory)
    limited = None if moves is None else current
    if outlook.price is not None or terms.touch:
        prices = partial(outlook_of, expected, devices, terms=terms)
        keys, amount = _settled((keys, amount), current, limited, prices, bounds, terms, search)
    placement = _placement(keys, amount, outlook.load)
    held = None if limited is None else limited.keys
    least = lower_bound(outlook, bounds, terms.memory, held)
    mine = outlook_of(expected, devices, placement, terms) if terms.touch else outlook
    cost = cost_of(placement.keys, amount, mine, terms.memory)
    return Plan(placement, _certificate(placement, cost, outlook, least, current, terms))


def reshare(placement: Placement, load: Array, devices: Devices, terms: Terms = FREE) -> Placement:
    """The same replicas with the shares that level devices best; no weights move.

    Args:
        placement: The replicas.
        load: ``[layers, experts]`` tokens to share.
        devices: The devices.
        terms: Links and prices of communication.

    Raises:
        PlacementError: The forms do not go together.
    """
    check_counts(load[None])
    layers, experts = load.shape
    check_form(placement, layers, experts, devices.count)
    outlook = outlook_of(Forecast(load, 0.0), devices, placement, terms)
    return _placement(placement.keys, leveled(placement.keys, outlook), outlook.load)


def outlook_of(
    expected: Forecast, devices: Devices, current: Placement | None, terms: Terms
) -> Outlook:
    """Put a forecast in units of the mean level; a layer without load counts as even."""
    total = expected.load.sum(1, keepdims=True)
    load = np.where(total > 0, expected.load, 1.0)
    load = load * (devices.count / load.sum(1, keepdims=True))
    weight = total[:, 0] / total.mean() if total.any() else np.ones(len(total))
    price = terms.prices(current, load, devices)
    if terms.links is None:
        return Outlook(load, devices.pace, weight, expected.spread, price)
    links = suited(terms.links, devices.pace)
    return Outlook(load, links.speed, weight, expected.spread, price, links)


def _changed(
    current: Placement, outlook: Outlook, bounds: Bounds, search: Search
) -> tuple[IntArray, FloatArray]:
    """The current placement after moves; as it was, where they turn out to be no gain."""
    kept, used = within(current.keys, outlook, bounds)
    if used > bounds.moves:
        raise PlacementError(
            f"memory: {used} replicas of the current placement must move to keep to the "
            f"devices' memory; the bound on moves is {bounds.moves}"
        )
    left = replace(bounds, moves=bounds.moves - used)
    if outlook.price is None and outlook.devices <= MOST_DEVICES:
        keys, start = rearranged(kept, outlook, left, search), None
    else:
        keys, start = improved(kept, outlook, left, search)
    return keys, leveled(keys, outlook, start)


def _settled(
    made: tuple[IntArray, FloatArray],
    current: Placement | None,
    limited: Placement | None,
    prices: Callable[[Placement | None], Outlook],
    bounds: Bounds,
    terms: Terms,
    search: Search,
) -> tuple[IntArray, FloatArray]:
    """The cheapest of what was made, what there is, and rounds at the prices of the best.

    What a token pays for companions hangs on where these are, so each is judged at prices of
    its own.

    Args:
        made: Keys and amounts.
        current: What there is.
        limited: The same where moves from it are bounded.
        prices: The outlook with the prices of a placement.
        bounds: Of the plan.
        terms: The prices.
        search: How long to look for moves.
    """
    outlook = prices(current)
    load = outlook.load

    def cost(keys: IntArray, amount: FloatArray) -> float:
        own = prices(_placement(keys, amount, load)) if terms.touch else outlook
        return cost_of(keys, amount, own, terms.memory).total

    found = [made]
    if current is not None and np.array_equal(
        within(current.keys, outlook, bounds)[0], current.keys
    ):
        now = load.reshape(-1)[current.group] * current.share
        found += [(current.keys, now), (current.keys, leveled(current.keys, outlook, now))]
    last = min(found, key=lambda each: cost(*each))
    found = [last]
    for _ in range(_ROUNDS if terms.touch else 0):
        outlook = prices(_placement(*last, load))
        if limited is not None:
            again = _changed(limited, outlook, bounds, search)
        else:
            some = replace(bounds, moves=PRICED * len(load))
            keys, start = improved(last[0], outlook, some, search)
            again = keys, leveled(keys, outlook, start)
        if terms.memory:
            again = thinned(*again, outlook, terms.memory)
        found.append(again)
        if np.array_equal(again[0], last[0]):
            break
        last = again  # though it may cost more: the next round may not
    return min(found, key=lambda each: cost(*each))


def _placement(keys: IntArray, amount: FloatArray, load: FloatArray) -> Placement:
    """Amounts as shares; an expert without load is shared equally."""
    layers, experts = load.shape
    devices = round(float(load[0].sum()))
    group = keys // devices
    sums = np.bincount(group, amount, minlength=load.size)
    idle = sums[group] <= 0
    part = np.where(idle, 1.0, amount)
    sums = np.bincount(group, part, minlength=load.size)
    return Placement(layers, experts, devices, keys, part / sums[group])


def _certificate(
    placement: Placement,
    cost: Cost,
    outlook: Outlook,
    least: float,
    current: Placement | None,
    terms: Terms,
) -> Certificate:
    """What the plan promises beside what is, which ``outlook`` has the prices of."""
    if current is None:
        return Certificate(cost, least, None, None, 0, 0, len(placement.keys))
    now = outlook.load.reshape(-1)[current.group] * current.share
    moves = int(placement.new_since(current).sum())
    return Certificate(
        cost,
        least,
        cost_of(current.keys, now, outlook, terms.memory),
        cost_of(current.keys, leveled(current.keys, outlook, now), outlook, terms.memory),
        moves,
        moves * terms.replica_bytes,
        len(placement.keys),
    )
