from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runtime.errors import InvalidInput
from runtime.experts.load import ExpertLoad, Horizon, by_request, evenness
from runtime.experts.predict import forecast
from runtime.experts.trace import trace_from_answers

SHORT = Horizon(requests=12, parts=4, half_life=5)
LOADS = st.integers(0, 40).flatmap(
    lambda count: arrays(np.int32, (count, 2, 5), elements=st.integers(0, 3))
)
CUTS = st.lists(st.integers(0, 40), max_size=5)


def counted(loads, cuts=(), horizon=SHORT, seed=0):
    load = ExpertLoad(2, 5, horizon, seed)
    for part in np.split(loads, sorted(min(cut, len(loads)) for cut in cuts)):
        load.add(part)
    return load


@given(LOADS, CUTS)
@settings(deadline=None)
def test_counts_are_sums_however_requests_come_in(loads, cuts):
    load = counted(loads, cuts)
    assert load.requests == len(loads)
    np.testing.assert_array_equal(load.total, loads.sum(0))
    assert 12 - 3 <= load.window_requests < 12 or load.window_requests == len(loads) < 12
    np.testing.assert_array_equal(load.window, loads[len(loads) - load.window_requests :].sum(0))
    age = np.arange(len(loads))[::-1]
    np.testing.assert_allclose(
        load.decayed, (loads * 0.5 ** (age / 5)[:, None, None]).sum(0), rtol=1e-12, atol=1e-12
    )


@given(LOADS, CUTS)
@settings(deadline=None)
def test_whole_parts_of_the_window_are_the_newest_ones_in_order(loads, cuts):
    parts = counted(loads, cuts).parts
    whole = loads[: len(loads) // 3 * 3].reshape(-1, 3, 2, 5).sum(1)
    assert len(parts) == min(3, len(loads) // 3)
    np.testing.assert_array_equal(parts, whole[len(whole) - len(parts) :])


@given(LOADS, CUTS)
@settings(deadline=None)
def test_one_row_of_pairs_stands_for_all_of_them(loads, cuts):
    together = counted(loads, cuts).together
    np.testing.assert_array_equal(together, together.transpose(0, 2, 1))
    called = (loads > 0).sum(2)
    np.testing.assert_array_equal(together.sum((1, 2)), (called**2).sum(0))
    never = ~(loads > 0).any(0)
    assert not together[never].any()


def test_who_is_called_together_is_right_in_the_mean():
    draw = np.random.default_rng(3)
    loads = (draw.random((20_000, 2, 5)) < [0.9, 0.5, 0.3, 0.2, 0.05]).astype(np.int32)
    exact = trace_from_answers(loads[:, None], 10_000, "all pairs").together
    np.testing.assert_allclose(counted(loads).together, exact, rtol=0.05, atol=90)


@given(LOADS, LOADS)
@settings(deadline=None)
def test_a_restored_load_goes_on_as_if_nothing_had_been(before, after):
    whole, restored = counted(before), ExpertLoad(2, 5, SHORT)
    whole.links.add(np.array([[2.0]]), np.array([[0.5]]))
    restored.restore(whole.to_arrays())
    for load in (whole, restored):
        load.add(after)
    assert restored.requests == whole.requests
    kept, wanted = restored.to_arrays(), whole.to_arrays()
    for name in ("total", "decayed", "ring", "link_tokens", "link_seconds"):
        np.testing.assert_array_equal(kept[name], wanted[name])


def test_what_is_kept_is_a_copy():
    load = counted(np.ones((3, 2, 5), np.int32))
    kept = load.to_arrays()
    load.add(np.ones((1, 2, 5), np.int32))
    assert kept["total"].max() == 3


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (ExpertLoad(2, 6, SHORT).to_arrays(), "total is int64"),
        (ExpertLoad(2, 5, Horizon(8, 2, 5)).to_arrays(), "ring is int64"),
        ({}, "requests is nothing"),
        (ExpertLoad(2, 5, SHORT).to_arrays() | {"link_seconds": np.array(-1.0)}, "no costs"),
    ],
)
def test_what_was_kept_of_something_else_is_refused_and_changes_nothing(other, word):
    load = counted(np.ones((3, 2, 5), np.int32))
    with pytest.raises(InvalidInput, match=word):
        load.restore(other)
    assert (load.requests, load.total.max(), load.window.max()) == (3, 3, 3)


@given(LOADS, st.integers(1, 12))
@settings(deadline=None)
def test_the_strongest_pairs_are_those_of_all_in_order(loads, most):
    load = counted(loads)
    for layer, pairs in zip(load.together, load.strongest_pairs(most), strict=True):
        every = [
            (one, other, layer[one, other])
            for one in range(5)
            for other in range(one + 1, 5)
            if layer[one, other]
        ]
        assert pairs == sorted(every, key=lambda pair: -pair[2])[:most]


def test_very_many_pairs_are_not_counted():
    load = ExpertLoad(2, 3000, Horizon(2, 2))
    load.add(np.ones((1, 2, 3000), np.int32))
    assert load.together is None
    assert load.strongest_pairs(16) is None
    assert load.total.sum() == 6000


def test_parts_of_the_window_can_be_forecast():
    load = counted(np.ones((40, 2, 5), np.int32))
    assert forecast(load.parts).load == pytest.approx(3)


@pytest.mark.parametrize("fields", [{"requests": 7}, {"parts": 1}, {"half_life": 0.0}])
def test_a_horizon_that_cannot_be_is_refused(fields):
    with pytest.raises(InvalidInput, match=r"window|half_life"):
        Horizon(**{"requests": 8, "parts": 4, **fields})


def test_another_shape_is_refused():
    with pytest.raises(InvalidInput, match=r"\[1, 2, 4\]"):
        ExpertLoad(2, 5).add(np.ones((1, 2, 4), np.int32))


@given(st.lists(st.integers(1, 3), min_size=1, max_size=6), st.integers(0, 5))
@settings(deadline=None)
def test_rows_are_summed_by_request(rows, cut):
    load = np.random.default_rng(0).integers(0, 9, (sum(rows), 2, 3)).astype(np.int32)
    parts = np.split(load, [sum(rows[:cut])])
    by_hand = [part.sum(0) for part in np.split(load, np.cumsum(rows)[:-1])]
    np.testing.assert_array_equal(by_request(parts, rows), by_hand)


@pytest.mark.parametrize(
    ("loads", "rows"),
    [([np.ones((2, 1, 3))], [1]), ([np.ones((2, 3))], [2]), ([np.ones((2, 1, 3))], [0, 2]),
     ([np.ones((1, 1, 3)), np.ones((1, 1, 4))], [1, 1])],
)  # fmt: skip
def test_loads_that_do_not_fit_are_refused(loads, rows):
    with pytest.raises(InvalidInput, match="load"):
        by_request(loads, rows)


def test_evenness_is_balance_and_the_highest():
    assert evenness(np.array([2, 2, 2])) == (1, 1)
    assert evenness(np.array([0, 4])) == (0, 2)
    assert evenness(np.array([0, 0])) is None
