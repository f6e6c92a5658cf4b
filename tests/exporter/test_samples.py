"""Every declared size is met, enough is pooled, and nothing outside the ranges is asked."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from exporter.samples import POOLED_SAMPLES, Plan, real_samples, shared_batch_axis

X = "x:float32[batch,4]"


@pytest.fixture(scope="session")
def plan_of(source_of):
    def plan(*inputs, rows=True, seed=0, **given):
        source = source_of(nn.Identity(), *inputs, **given)
        axis = shared_batch_axis(source.inputs)
        return Plan(source, axis, rows and axis is not None, seed)

    return plan


def sizes(samples, axis="batch"):
    return [sample.axes[axis] for sample in samples]


@pytest.mark.parametrize(
    ("declared", "wanted"),
    [
        (None, (1, 2, 7, 64)),
        ((1, 4), (1, 2, 4)),
        ((3, 5), (3, 5)),
        ((1, 200), (1, 2, 7, 64)),
        ((100, 200), (100,)),
        ((5, 64), (5, 7, 64)),
    ],
)
def test_batches_are_1_2_7_and_the_upper_end_within_the_range(plan_of, declared, wanted):
    plan = plan_of(X, ranges={"batch": declared} if declared else {})
    assert plan.batch_sizes() == wanted
    assert set(sizes(plan.random())) == set(wanted)


def test_every_other_free_axis_is_met_at_three_sizes(plan_of):
    plan = plan_of("x:float32[batch,height,width]", ranges={"height": (8, 32)})
    assert plan.axis_sizes() == {"height": (8, 16, 32), "width": (1, 8, 64)}
    drawn = list(plan.random())
    assert set(sizes(drawn, "height")) == {8, 16, 32}
    assert set(sizes(drawn, "width")) == {1, 8, 64}
    for sample in drawn:
        (array,) = sample.arrays().values()
        assert array.shape == (
            sample.axes["batch"], sample.axes["height"], sample.axes["width"],
        )  # fmt: skip


def test_an_axis_with_one_size_is_fixed(plan_of):
    plan = plan_of("x:float32[batch,seq]", ranges={"seq": (2, 2), "batch": (1, 4)})
    assert plan.axis_sizes() == {}
    assert {next(iter(s.arrays().values())).shape[1] for s in plan.random()} == {2}


@given(low=st.integers(1, 70), more=st.integers(1, 200))
def test_at_least_64_rows_are_pooled_and_none_outside_the_range(plan_of, low, more):
    plan = plan_of(X, ranges={"batch": (low, low + more)})
    drawn = sizes(plan.random())
    assert sum(drawn) >= POOLED_SAMPLES
    for sample in [*plan.random(), *plan.extremes()]:
        assert low <= sample.axes["batch"] <= max(low, 64)


def test_where_rows_are_no_samples_64_calls_are_pooled_each_size_twice_in_a_row(plan_of):
    plan = plan_of(X, rows=False)
    drawn = sizes(plan.random())
    assert len(drawn) == POOLED_SAMPLES
    assert drawn[:8] == [1, 1, 2, 2, 7, 7, 64, 64]


def test_the_first_round_meets_every_size_of_every_axis(plan_of):
    for plan in (plan_of("x:float32[batch,seq]"), plan_of("x:float32[batch,seq]", rows=False)):
        first = plan.first_samples()
        assert set(sizes(first)) == {1, 2, 7, 64}
        assert set(sizes(first, "seq")) == {1, 8, 64}


def test_without_a_common_axis_each_axis_is_met_at_three_sizes(plan_of):
    plan = plan_of("x:float32[n,4]", "y:float32[m,4]")
    assert plan.batch_axis is None
    drawn = list(plan.random())
    assert len(drawn) == POOLED_SAMPLES
    assert len({(s.axes["n"], s.axes["m"]) for s in drawn}) >= 3


def test_extreme_kinds_are_zeros_constants_and_large_values(plan_of):
    zeros, constant, large = (s.arrays()["x"] for s in plan_of(X).extremes())
    assert not zeros.any()
    assert all(len(set(row)) == 1 for row in constant.tolist())
    assert len(set(constant[:, 0].tolist())) == len(constant), "each row another constant"
    assert np.abs(large).min() >= 1e3
    assert all(s.extreme for s in plan_of(X).extremes())


def test_inputs_without_floats_have_no_extremes(plan_of):
    plan = plan_of("tokens:int64[batch,seq]", values={"tokens": (5, 9)})
    assert list(plan.extremes()) == []
    values = np.concatenate([s.arrays()["tokens"].ravel() for s in plan.random()])
    assert set(values.tolist()) == {5, 6, 7, 8}


def test_declared_values_bound_floats_too(plan_of):
    plan = plan_of(X, values={"x": (3, 5)})
    values = np.concatenate([s.arrays()["x"].ravel() for s in plan.random()])
    assert values.min() >= 3
    assert values.max() < 5
    assert values.dtype == np.float32


def test_declared_decimals_bound_floats(plan_of):
    plan = plan_of(X, values={"x": (-0.5, 0.25)})
    values = np.concatenate([s.arrays()["x"].ravel() for s in plan.random()])
    assert -0.5 <= values.min() < -0.4
    assert 0.2 < values.max() <= 0.25


def test_one_seed_draws_one_set_of_inputs(plan_of):
    def drawn(seed):
        return [s.arrays()["x"].tobytes() for s in plan_of(X, seed=seed).random()]

    assert drawn(1) == drawn(1)
    assert not set(drawn(1)) & set(drawn(2))
    assert max(Counter(drawn(1)).values()) == 1, "no input is drawn twice"


def test_two_inputs_are_drawn_apart(plan_of):
    sample = next(plan_of("a:float32[batch,4]", "b:float32[batch,4]").random())
    assert not np.array_equal(sample.arrays()["a"], sample.arrays()["b"])


def test_real_rows_are_cut_into_the_batch_sizes(plan_of):
    rows = np.arange(400, dtype=np.float32).reshape(100, 4)
    cut = list(real_samples({"x": rows}, plan_of(X)))
    assert sizes(cut) == [1, 2, 7, 54]
    np.testing.assert_array_equal(np.concatenate([s.arrays()["x"] for s in cut]), rows[:64])
    assert sizes(real_samples({"x": rows[:2]}, plan_of(X))) == [1, 1]


def test_real_calls_come_in_pairs_of_a_size_where_rows_are_no_samples(plan_of):
    rows = np.zeros((30, 4), np.float32)
    assert sizes(real_samples({"x": rows}, plan_of(X, rows=False))) == [1, 1, 2, 2, 7, 7, 10]


def test_real_calls_of_fixed_inputs_are_taken_one_by_one(plan_of):
    calls = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    cut = list(real_samples({"x": calls}, plan_of("x:float32[2,4]")))
    assert [s.arrays()["x"].shape for s in cut] == [(2, 4)] * 3
    np.testing.assert_array_equal(cut[2].arrays()["x"], calls[2])


@pytest.mark.parametrize(
    ("inputs", "axis"),
    [
        (("x:float32[n,4]",), "n"),
        (("x:float32[n,4]", "y:float32[n]"), "n"),
        (("x:float32[n,4]", "y:float32[m,4]"), None),
        (("x:float32[n,4]", "k:int64[]"), None),
        (("x:float32[8,4]",), None),
    ],
)
def test_the_batch_axis_is_the_first_of_all_inputs(plan_of, inputs, axis):
    assert plan_of(*inputs).batch_axis == axis
