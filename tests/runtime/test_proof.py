"""The judge passes what is right within float32 and finds what is not."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.error_pool import FLOOR, ErrorPool, Scale
from runtime.proof import EXTREME_LIMIT, MAX_LIMIT, RMS_LIMIT, all_passed, first_failure, judge

RNG = np.random.RandomState(0)
TRUTH = RNG.standard_normal((64, 10))


def pooled(artifact, truth, torch32=None, *, rows=True):
    pool = ErrorPool(rows=rows)
    pool.add(np.asarray(artifact), np.asarray(truth),
             None if torch32 is None else np.asarray(torch32))  # fmt: skip
    return pool


def verdict(pool, *, extreme=False, **given):
    return judge(pool, "y", "random", extreme=extreme, **given)


def noise(size, seed=1):
    """Noise of exactly this RMS."""
    raw = np.random.RandomState(seed).standard_normal(TRUTH.shape)
    return raw * size / np.sqrt((raw**2).mean())


def test_the_limits_are_those_of_the_specification():
    assert (RMS_LIMIT, MAX_LIMIT, FLOOR, EXTREME_LIMIT) == (4, 8, 8 * 2**-24, 1e-4)


@pytest.mark.parametrize(("times", "passes"), [(3.99, True), (4.01, False)])
def test_the_pooled_error_may_be_four_times_that_of_float32(times, passes):
    own = noise(1e-3)
    result = verdict(pooled(TRUTH + own * times, TRUTH, TRUTH + own))
    assert result.rms_factor == pytest.approx(times)
    assert (result.verdict == "passed") is passes
    assert passes or "RMS error is 4.01 x" in result.reason


@pytest.mark.parametrize(("times", "passes"), [(7.9, True), (8.1, False)])
def test_the_largest_error_may_be_eight_times_that_of_float32(times, passes):
    own = np.full_like(TRUTH, 1e-3)
    wrong = own.copy()
    wrong[3, 4] *= times
    result = verdict(pooled(TRUTH + wrong, TRUTH, TRUTH + own))
    assert result.rms_factor < 2
    assert result.max_factor == pytest.approx(times)
    assert (result.verdict == "passed") is passes


@pytest.mark.parametrize(("times", "passes"), [(0.999, True), (1.001, False)])
def test_where_float32_is_right_by_luck_the_floor_is_the_yardstick(times, passes):
    error = FLOOR * np.sqrt((TRUTH**2).mean()) * RMS_LIMIT * times
    result = verdict(pooled(TRUTH + error, TRUTH, TRUTH))
    assert (result.verdict == "passed") is passes


def test_errors_are_pooled_and_not_judged_batch_by_batch():
    pool = ErrorPool(rows=True)
    for row in range(64):
        part = slice(row, row + 1)
        lucky = row % 2 == 0
        torch32 = TRUTH[part] + (0 if lucky else 1e-3)
        pool.add(TRUTH[part] + 1e-3, TRUTH[part], torch32)
    result = verdict(pool)
    assert result.samples == 64
    assert result.rms_factor == pytest.approx(np.sqrt(2), rel=1e-6)
    assert result.verdict == "passed"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_fails_on_ordinary_inputs(value):
    wrong = TRUTH.copy()
    wrong[5, 5] = value
    result = verdict(pooled(wrong, TRUTH, TRUTH))
    assert result.verdict == "failed"
    assert "1 of 640 values differ in NaN or infinity" in result.reason


def test_nan_fails_on_ordinary_inputs_even_where_the_module_gives_it_too():
    shared = TRUTH.copy()
    shared[5, 5] = np.nan
    assert verdict(pooled(shared, shared, shared)).reason == "1 of 640 values are NaN"
    assert verdict(pooled(shared, shared, shared), extreme=True).verdict == "passed"


def test_minus_infinity_of_a_mask_is_an_answer_like_any_other():
    masked = TRUTH.copy()
    masked[:, 5:] = -np.inf
    assert verdict(pooled(masked, masked, masked)).verdict == "passed"
    turned = masked.copy()
    turned[0, 5] = np.inf
    assert verdict(pooled(turned, masked, masked)).verdict == "failed"


def test_on_extreme_inputs_float32_may_overflow_where_the_truth_does_not():
    truth = np.array([[1e39, 2.0], [-1e39, 3.0]])
    torch32 = truth.astype(np.float64).copy()
    torch32[:, 0] = [np.inf, -np.inf]
    assert verdict(pooled(torch32, truth, torch32), extreme=True).verdict == "passed"
    turned = torch32 * [[-1, 1], [1, 1]]
    assert verdict(pooled(turned, truth, torch32), extreme=True).verdict == "failed"
    finite = np.array([[3e38, 2.0], [-3e38, 3.0]])
    assert verdict(pooled(finite, truth, torch32), extreme=True).verdict == "failed"


def test_where_the_truth_overflows_the_artifact_must_too():
    truth, torch32 = np.array([[np.inf, 1.0]]), np.array([[1e308, 1.0]])
    assert verdict(pooled(torch32, truth, torch32), extreme=True).verdict == "failed"


@pytest.mark.parametrize(("relative", "passes"), [(0.9e-4, True), (1.1e-4, False)])
def test_on_extreme_inputs_the_relative_error_is_judged_and_the_factor_is_not(relative, passes):
    error = noise(relative * np.sqrt((TRUTH**2).mean()))
    result = verdict(pooled(TRUTH + error, TRUTH, TRUTH), extreme=True)
    assert result.rms_factor > 100
    assert (result.rms_limit, result.max_limit) == (None, None)
    assert (result.verdict == "passed") is passes


@pytest.mark.parametrize("rows", [True, False])
def test_an_output_that_never_varies_proves_nothing(rows):
    pool = ErrorPool(rows=rows)
    for _ in range(3):
        pool.add(np.ones((4, 2)), np.ones((4, 2)), np.ones((4, 2)))
    result = verdict(pool, may_be_constant=False)
    assert result.verdict == "vacuous"
    assert "does not vary over" in result.reason
    assert verdict(pool, may_be_constant=True).verdict == "passed"
    assert verdict(pool, may_be_constant=False, extreme=True).verdict == "passed"


def test_an_output_that_varies_by_less_than_rounding_proves_nothing():
    truth = 1e6 + np.arange(8.0).reshape(8, 1) * 0.01
    assert verdict(pooled(truth, truth, truth), may_be_constant=False).verdict == "vacuous"
    truth = 1e6 + np.arange(8.0).reshape(8, 1)
    assert verdict(pooled(truth, truth, truth), may_be_constant=False).verdict == "passed"


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "bool"])
def test_integers_are_equal_or_fail(dtype):
    truth = np.arange(12).reshape(4, 3).astype(dtype)
    assert verdict(pooled(truth, truth), may_be_constant=False).verdict == "passed"
    wrong = truth.copy()
    wrong[0, 0] = not wrong[0, 0]
    result = verdict(pooled(wrong, truth))
    assert result.verdict == "failed"
    assert result.reason == "1 of 12 elements differ"
    assert result.rms_error == pytest.approx(1 / 12)


def test_large_integers_are_not_compared_as_floats():
    truth = np.array([[2**60], [5]])
    assert verdict(pooled(truth + 1, truth)).verdict == "failed"


def test_another_shape_fails_and_is_named():
    result = verdict(pooled(TRUTH[:, :5], TRUTH, TRUTH))
    assert result.verdict == "failed"
    assert result.reason == "shape [64, 5] where [64, 10] is right"
    flat = verdict(pooled(TRUTH[:1], TRUTH, TRUTH))
    assert flat.verdict == "failed", "an answer that broadcasts is still of another shape"


def test_a_wrong_shape_is_not_forgotten_when_right_ones_follow():
    pool = pooled(TRUTH[:, :5], TRUTH, TRUTH)
    pool.add(TRUTH, TRUTH, TRUTH)
    assert verdict(pool).verdict == "failed"


def test_no_samples_prove_nothing():
    assert verdict(ErrorPool(rows=True)).reason == "no sample was run"
    assert not all_passed([])


def test_the_scale_of_the_evidence_counts_and_so_does_the_floor():
    error = noise(1e-3)
    pool = pooled(TRUTH + error, TRUTH)
    assert verdict(pool, scale=Scale(1e-3, 1e-2)).verdict == "passed"
    assert verdict(pool, scale=Scale(1e-4, 1e-2)).verdict == "failed"
    floor = verdict(pool, scale=Scale(0, 0))
    assert floor.rms_scale == pytest.approx(FLOOR * np.sqrt((TRUTH**2).mean()))


@pytest.mark.parametrize("extreme", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e300, np.nan, np.inf])
def test_every_judgement_fits_into_json(value, extreme):
    artifact = np.full((4, 2), value)
    for truth in (np.zeros((4, 2)), artifact, TRUTH[:4, :2]):
        with np.errstate(all="ignore"):
            result = verdict(pooled(artifact, truth, truth), extreme=extreme)
        json.dumps(asdict(result), allow_nan=False)


def test_an_error_where_all_is_zero_is_infinitely_large_and_fails():
    zeros = np.zeros((4, 2))
    result = verdict(pooled(zeros + 1e-9, zeros, zeros))
    assert result.verdict == "failed"
    assert result.rms_factor is None
    assert verdict(pooled(zeros, zeros, zeros)).verdict == "passed"


def test_the_first_failure_is_named_with_output_and_kind():
    good = verdict(pooled(TRUTH, TRUTH, TRUTH))
    bad = judge(pooled(TRUTH[:1], TRUTH, TRUTH), "boxes", "large", extreme=True)
    assert first_failure([good]) == ""
    assert first_failure([good, bad]) == (
        "output 'boxes' on large inputs is failed: shape [1, 10] where [64, 10] is right"
    )
    assert all_passed([good])
    assert not all_passed([good, bad])


sizes = st.floats(1e-30, 1e30)


@given(scale=sizes, seed=st.integers(0, 50))
def test_float32_itself_passes_at_every_magnitude(scale, seed):
    truth = np.random.RandomState(seed).standard_normal((8, 4)) * scale
    narrow = truth.astype(np.float32)
    assert verdict(pooled(narrow, truth, narrow)).verdict == "passed"


@given(scale=sizes, seed=st.integers(0, 50))
def test_the_verdict_does_not_depend_on_the_unit_of_the_output(scale, seed):
    rng = np.random.RandomState(seed)
    truth, own, wrong = (rng.standard_normal((8, 4)) for _ in range(3))
    near, far = truth + own * 1e-4, truth + wrong * 3e-4
    unit = verdict(pooled(far, truth, near))
    scaled = verdict(pooled(far * scale, truth * scale, near * scale))
    assert scaled.rms_factor == pytest.approx(unit.rms_factor, rel=1e-6)
    assert scaled.max_factor == pytest.approx(unit.max_factor, rel=1e-6)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_cutting_the_samples_into_batches_changes_nothing(cuts):
    rows = sum(cuts)
    rng = np.random.RandomState(rows)
    truth, own, wrong = (rng.standard_normal((rows, 3)) for _ in range(3))
    whole = pooled(truth + wrong * 1e-3, truth, truth + own * 1e-3)
    parts = ErrorPool(rows=True)
    start = 0
    for size in cuts:
        cut = slice(start, start + size)
        parts.add(truth[cut] + wrong[cut] * 1e-3, truth[cut], truth[cut] + own[cut] * 1e-3)
        start += size
    assert verdict(parts).rms_factor == pytest.approx(verdict(whole).rms_factor)
    assert verdict(parts).samples == verdict(whole).samples == rows


@given(st.floats(allow_nan=True, allow_infinity=True), st.integers(0, 639))
def test_no_single_value_can_turn_a_failure_into_a_pass(value, place):
    wrong = TRUTH + 1
    wrong.reshape(-1)[place] = value
    with np.errstate(all="ignore"):
        assert verdict(pooled(wrong, TRUTH, TRUTH.astype(np.float32))).verdict == "failed"
