from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.experts.filling import Room, exact_fill, level_labels, pack_whole, pour


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


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 8), st.floats(0.5, 1.5))
def test_the_heaviest_go_inside_until_that_is_full_and_the_others_outside(
    seed, experts, devices, part
):
    load = drawn_load(seed, experts, devices)[None]
    order = np.argsort(-load, axis=1, kind="stable")
    inside = (np.arange(devices) < devices // 2)[None]
    capacity = np.array([part * (devices // 2)])
    room = Room(np.ones(devices), np.full(devices, experts), np.zeros((1, devices)), inside,
                capacity, 0.3)  # fmt: skip
    device, base = pack_whole(load, order, np.zeros(load.shape, bool), room)
    assert (device >= 0).all()
    assert np.allclose(np.bincount(device[0], load[0], minlength=devices), base[0])
    taken = inside[0][device[0]]
    assert load[0][taken].sum() <= capacity[0] + 1e-9
    left = capacity[0]
    for expert in order[0]:
        assert taken[expert] == (load[0, expert] <= left)
        left -= load[0, expert] * taken[expert]


def test_devices_of_one_kind_change_names_until_they_hold_as_much():
    held = np.tile([5, 1, 3, 3], (10, 1))
    name = level_labels(held, np.zeros(4, dtype=np.int64))
    total = np.zeros(4, dtype=np.int64)
    for layer in range(10):
        total[name[layer]] += held[layer]
    assert total.max() == total.min()
    apart = level_labels(held, np.array([0, 0, 1, 1]))
    assert (apart[:, :2] < 2).all()
