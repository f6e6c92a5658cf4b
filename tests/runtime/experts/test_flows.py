from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.experts.devices import equal_devices
from runtime.experts.flows import rearranged
from runtime.experts.limits import bounds_for
from runtime.experts.plan import outlook_of, plan, reshare
from runtime.experts.predict import Forecast
from runtime.experts.search import SEARCH
from runtime.experts.terms import FREE
from runtime.experts.traces import drifting


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 24), st.integers(1, 7),
    st.integers(0, 10), st.integers(0, 12), st.integers(0, 3),
)  # fmt: skip
def test_moves_keep_every_expert_the_replicas_memory_and_the_bound(
    seed, layers, experts, count, more, moves, room
):
    rng = np.random.default_rng(seed)
    load = np.exp(rng.standard_normal((2, layers, experts)))
    slots = experts + more
    devices = equal_devices(count, -(-layers * slots // count) + room)
    before = plan(load[0], devices, slots).placement
    outlook = outlook_of(Forecast(load[1], 0.3), devices, before, FREE)
    bounds = bounds_for(load[1], devices, slots, before, moves)
    keys = rearranged(before.keys, outlook, bounds, SEARCH)
    assert (np.diff(keys) > 0).all()
    assert len(keys) == len(before.keys)
    assert set(keys // count) == set(range(layers * experts))
    assert (np.bincount(keys % count, minlength=count) <= devices.memory).all()
    assert np.setdiff1d(keys, before.keys).size <= moves


def test_two_moves_of_a_hundred_replicas_keep_live_shares_even_as_load_drifts():
    counts = drifting(9, 9, (12, 128), keeps=0.97).counts
    devices = equal_devices(16, 12 * 9)
    left = placed = plan(counts[:3], devices, 144).placement
    for at in range(4, 9):
        placed = plan(counts[:at], devices, 144, placed, moves=35).placement

    def highest(each):
        level = reshare(each, counts[8], devices).device_load(counts[8])
        return (level.max(1) / level.mean(1)).mean() - 1

    assert highest(placed) < 0.5 * highest(left)
