from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.experts.shares import balanced_amounts


def drawn_replicas(rng: np.random.Generator, experts: int, devices: int, more: int):
    """Every expert once, and so many replicas more, for one layer."""
    keys = set((np.arange(experts) * devices + rng.integers(devices, size=experts)).tolist())
    keys |= set(rng.integers(experts * devices, size=more).tolist())
    return np.array(sorted(keys))


def highest_by_subsets(keys, load, speed):
    """The least highest level, by Hall's condition over all sets of devices."""
    devices = len(speed)
    holders = [set() for _ in load]
    for key in keys:
        holders[key // devices].add(int(key % devices))
    best = 0.0
    for mask in range(1, 2**devices):
        some = {d for d in range(devices) if mask >> d & 1}
        confined = sum(w for w, held in zip(load, holders, strict=True) if held <= some)
        best = max(best, confined / sum(speed[d] for d in some))
    return best


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 12), st.integers(0, 14), st.booleans()
)
def test_shares_reach_the_optimum_of_the_linear_program(seed, devices, experts, more, unequal):
    rng = np.random.default_rng(seed)
    speed = rng.uniform(0.5, 2, devices) if unequal else np.ones(devices)
    speed = speed / speed.mean()
    load = rng.exponential(size=(1, experts))
    load *= devices / load.sum()
    keys = drawn_replicas(rng, experts, devices, more)
    amount = balanced_amounts(keys, load, speed, steps=3000)
    level = np.bincount(keys % devices, amount, minlength=devices) / speed
    assert level.max() == pytest.approx(highest_by_subsets(keys, load[0], speed), rel=1e-3)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 30), st.integers(0, 60))
def test_amounts_are_not_negative_and_sum_to_each_experts_load(seed, devices, experts, more):
    rng = np.random.default_rng(seed)
    load = rng.exponential(size=(1, experts)) * (rng.random((1, experts)) > 0.2)
    keys = drawn_replicas(rng, experts, devices, more)
    amount = balanced_amounts(keys, load, np.ones(devices), steps=5)
    assert (amount >= 0).all()
    assert np.allclose(np.bincount(keys // devices, amount, minlength=experts), load[0])


def test_layers_are_solved_side_by_side_as_each_alone():
    rng = np.random.default_rng(3)
    load = rng.exponential(size=(2, 9))
    load *= 4 / load.sum(1, keepdims=True)
    alone = [drawn_replicas(rng, 9, 4, 12) for _ in range(2)]
    both = np.concatenate((alone[0], alone[1] + 9 * 4))
    amount = balanced_amounts(both, load, np.ones(4), steps=2000)
    level = np.bincount(both // 36 * 4 + both % 4, amount).reshape(2, 4)
    for layer in range(2):
        single = balanced_amounts(alone[layer], load[layer : layer + 1], np.ones(4), steps=2000)
        wanted = np.bincount(alone[layer] % 4, single, minlength=4)
        assert np.allclose(level[layer], wanted, atol=1e-6)


def test_a_price_above_the_difference_of_levels_keeps_tokens_away():
    keys, load = np.array([0, 1]), np.array([[2.0]])  # one expert on two devices
    free = balanced_amounts(keys, load, np.ones(2))
    dear = balanced_amounts(keys, load, np.ones(2), price=np.array([0.0, 5.0]))
    some = balanced_amounts(keys, load, np.ones(2), price=np.array([0.0, 1.0]), steps=500)
    assert np.allclose(free, [1, 1])
    assert np.allclose(dear, [2, 0])
    assert np.allclose(some, [1.5, 0.5])
