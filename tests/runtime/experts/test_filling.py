from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.experts.filling import copies_within, exact_fill, level_labels, pack_copies, pour


def drawn_load(seed: int, experts: int, devices: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kinds = (
        rng.random(experts), np.exp(3 * rng.standard_normal(experts)), np.ones(experts),
        rng.integers(0, 3, experts) + (np.arange(experts) == 0),
    )  # fmt: skip
    load = kinds[seed % 4]
    return load * (devices / load.sum())


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2))
def test_experts_and_devices_less_one_places_are_enough_for_equal_levels(
    seed, experts, devices, more
):
    load = drawn_load(seed, experts, devices)
    room = -(-(experts + devices - 1) // devices) + more
    filled = exact_fill(load, devices, room)
    expert, device, amount = (np.array(each) for each in zip(*filled, strict=True))
    assert np.allclose(np.bincount(device, amount, minlength=devices), 1, atol=1e-9)
    assert np.allclose(np.bincount(expert, amount, minlength=experts), load, atol=1e-9)
    assert len(filled) <= experts + devices - 1
    assert len(set(zip(expert.tolist(), device.tolist(), strict=True))) == len(filled)
    assert set(expert.tolist()) == set(range(experts))
    assert np.bincount(device).max() <= room


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12))
def test_two_lines_of_pieces_cut_each_other_into_one_less_than_both(seed, heavy, devices):
    rng = np.random.default_rng(seed)
    load, lack = rng.exponential(size=(1, heavy)), rng.exponential(size=(1, devices))
    lack *= load.sum() / lack.sum()
    amount = pour(load, lack)
    assert np.allclose(amount.sum(2), load)
    assert np.allclose(amount.sum(1), lack)
    assert (amount > 0).sum() <= heavy + devices - 1


def test_a_layer_with_heavier_experts_gets_more_of_the_replicas():
    even, skewed = np.full(8, 0.5), np.array([3.3] + [0.1] * 7)
    copies = copies_within(np.stack((even, skewed)), 20, 4)
    assert copies.sum() <= 20
    assert copies[0].sum() == 8
    assert copies[1, 0] == 4  # as many as there are devices


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 6))
def test_copies_of_an_expert_go_to_different_devices(seed, experts, devices):
    rng = np.random.default_rng(seed)
    load = drawn_load(seed, experts, devices)[None]
    copies = rng.integers(1, devices + 1, (1, experts))
    room = np.full(devices, -(-int(copies.sum()) // devices))
    layer, expert, device = pack_copies(load, copies, np.ones(devices), room)
    pairs = list(zip(layer.tolist(), expert.tolist(), device.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) == copies.sum()
    assert np.array_equal(np.bincount(expert, minlength=experts), copies[0])


def test_devices_of_one_kind_change_names_until_they_hold_as_much():
    held = np.tile([5, 1, 3, 3], (10, 1))
    name = level_labels(held, np.zeros(4, dtype=np.int64))
    total = np.zeros(4, dtype=np.int64)
    for layer in range(10):
        total[name[layer]] += held[layer]
    assert total.max() - total.min() <= 4
    apart = level_labels(held, np.array([0, 0, 1, 1]))
    assert (apart[:, :2] < 2).all()
