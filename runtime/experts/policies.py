"""The policies that a trace can be replayed under. Each sees past windows only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.devices import Devices
from runtime.experts.eplb import place_eplb
from runtime.experts.placement import Placement
from runtime.experts.plan import plan
from runtime.experts.predict import forecast
from runtime.experts.search import SEARCH, Search
from runtime.experts.simple import place_by_threshold, place_once
from runtime.experts.terms import FREE, Terms
from runtime.tensors import Array


@dataclass(frozen=True)
class Setting:
    """What a policy places on.

    Attributes:
        devices: The devices.
        slots: Replica places of one layer on all devices.
        moves: New replicas that ``ours`` may make from one window to the next, over all
            layers; None for any number.
        groups: Of experts, for ``eplb``: with as many nodes as devices stand in it keeps
            a group on a node; 1 for its global rule.
        predicted: Whether ``eplb`` places for the forecast and not for the last window.
        terms: Prices, for ``ours``.
        search: How long ``ours`` looks for moves.
    """

    devices: Devices
    slots: int
    moves: int | None = None
    groups: int = 1
    predicted: bool = False
    terms: Terms = FREE
    search: Search = SEARCH


Policy = Callable[[Array, Placement | None, Setting], Placement]
"""Past windows, the placement so far, the setting: the placement for the next window."""


def _none(past: Array, current: Placement | None, setting: Setting) -> Placement:
    return current or place_once(past.shape[1], past.shape[2], setting.devices.count)


def _threshold(past: Array, current: Placement | None, setting: Setting) -> Placement:
    count, links = setting.devices.count, setting.terms.links
    if links is None:
        return place_by_threshold(past[-1], count, setting.slots)
    # As the rule has it: what experts cost that are where a server begins with them.
    experts = np.arange(past.shape[2])
    paid = past[-1] * links.us_to(count)[experts * count // past.shape[2]]
    return place_by_threshold(past[-1], count, setting.slots, paid)


def _eplb(past: Array, current: Placement | None, setting: Setting) -> Placement:
    devices = setting.devices
    if not devices.equal:
        raise PlacementError("eplb places on equal devices only; these differ in speed")
    nodes = devices.nodes if setting.groups > 1 else 1
    load = forecast(past).load if setting.predicted else np.asarray(past[-1], dtype=float)
    return place_eplb(load, devices.count, setting.slots, groups=setting.groups, nodes=nodes)


def _ours(past: Array, current: Placement | None, setting: Setting) -> Placement:
    bound = None if current is None else setting.moves
    return plan(
        past, setting.devices, setting.slots, current,
        moves=bound, terms=setting.terms, search=setting.search,
    ).placement  # fmt: skip


POLICIES: Mapping[str, Policy] = {
    "none": _none,
    "threshold": _threshold,
    "eplb": _eplb,
    "ours": _ours,
}
"""By the name that ``twinport experts replay --policy`` takes."""
