from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.experts.devices import equal_devices
from runtime.experts.eplb import place_eplb
from runtime.experts.outlook import Outlook
from runtime.experts.plan import plan, reshare
from runtime.experts.ring import copies_within, ring_of


def drawn_outlook(seed: int, layers: int, experts: int, devices: int) -> Outlook:
    load = np.exp(np.random.default_rng(seed).standard_normal((layers, experts)))
    load *= devices / load.sum(1, keepdims=True)
    return Outlook(load, np.ones(devices), np.ones(layers), 0.3)


def test_a_layer_with_heavier_experts_gets_more_of_the_replicas():
    even, skewed = np.full(8, 0.5), np.array([3.3] + [0.1] * 7)
    load = np.stack((even, skewed))
    copies = copies_within(load.reshape(1, -1), np.array([4]), 4).reshape(2, 8)
    assert copies.sum() <= 20
    assert copies[0].sum() == 8
    assert copies[1, 0] == 4  # as many as there are devices


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 20), st.integers(0, 12))
def test_copies_of_a_row_are_as_many_as_there_are_spare_ones(seed, rows, experts, spare):
    load = np.random.default_rng(seed).exponential(size=(rows, experts))
    copies = copies_within(load, np.full(rows, spare), 50)
    assert (copies.sum(1) == experts + spare).all()
    each = load / copies
    fewer = load / np.maximum(copies - 1, 1)
    assert (each.max(1) <= np.where(copies > 1, fewer, np.inf).min(1) + 1e-12).all()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 24), st.integers(1, 9),
    st.integers(0, 14), st.integers(1, 3),
)  # fmt: skip
def test_replicas_are_on_devices_of_the_ring_and_neighbours_share_in_a_chain_or_all_around(
    seed, layers, experts, devices, spare, nodes
):
    outlook = drawn_outlook(seed, layers, experts, devices)
    copies = copies_within(outlook.load, np.full(layers, min(spare, devices)), devices)
    ring = ring_of(outlook, copies, np.arange(devices) % nodes)
    assert (np.sort(ring.device, axis=1) == np.arange(devices)).all()
    assert (ring.inside.sum(1) == ring.size).all()
    assert (ring.size <= devices).all()
    layer, _, device = ring.replicas
    assert ring.inside[layer, device].all()
    for each in range(layers):
        shared = np.flatnonzero(copies[each] > 1)
        assert set(ring.expert[each][ring.copies[each] > 0]) == set(shared)
        assert np.array_equal(np.sort(ring.copies[each][ring.copies[each] > 0]),
                              np.sort(copies[each][shared]))  # fmt: skip
        mine = layer == each
        assert set(device[mine]) == set(np.flatnonzero(ring.inside[each]))
    assert ring.even(outlook.load).sum() == pytest.approx(
        np.where(copies > 1, outlook.load, 0).sum()
    )


def test_the_ring_is_meant_to_be_fuller_than_the_others_where_load_drifts():
    outlook = drawn_outlook(3, 2, 256, 32)
    copies = copies_within(outlook.load, np.array([10, 32]), 32)
    level = ring_of(outlook, copies, np.zeros(32)).level
    assert level[0] > 1
    assert level[1] == 1
    still = Outlook(outlook.load, outlook.speed, outlook.weight)
    assert (ring_of(still, copies, np.zeros(32)).level == 1).all()


def test_a_third_of_the_spare_replicas_with_live_shares_is_as_even_as_all_of_them_with_eplb():
    rng = np.random.default_rng(5)
    value = rng.standard_normal((40, 128))
    now = np.exp(value)
    came = np.exp(0.97 * value + np.sqrt(1 - 0.97**2) * rng.standard_normal(value.shape))
    devices = equal_devices(16, 40 * 9)
    past = np.stack([now * np.exp(0.24 * rng.standard_normal(now.shape)), now])
    placed = reshare(plan(past, devices, 128 + 5).placement, came, devices)
    theirs = place_eplb(now, 16, 144)

    def highest(each):
        level = each.device_load(came)
        return (level.max(1) / level.mean(1)).mean() - 1

    assert highest(placed) < highest(theirs)
