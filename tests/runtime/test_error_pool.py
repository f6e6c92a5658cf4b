"""Errors are summed over samples of any shape, and the truth overflows as float32 does."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.error_pool import FLOOR, ErrorPool, Scale, truth_with_overflow


def test_samples_are_compared_with_those_of_their_shape():
    pool = ErrorPool(rows=False)
    for size in (1, 2, 3):
        pool.add(np.ones((size, 2)), np.ones((size, 2)), np.ones((size, 2)))
    assert not pool.compared
    assert not pool.varies()
    pool.add(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)))
    assert pool.compared
    assert pool.varies()


def test_the_pattern_is_taken_from_float32_and_the_numbers_from_the_truth():
    truth, torch32 = np.array([1.0, 1e39, 2.0]), np.array([1.5, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(truth_with_overflow(truth, torch32), [1.0, np.inf, np.nan])


def test_the_yardstick_is_the_error_of_float32_or_the_floor():
    truth = np.array([[3.0], [-4.0]])
    apart, lucky = ErrorPool(rows=True), ErrorPool(rows=True)
    apart.add(truth + 0.5, truth, truth + np.array([[0.0], [0.25]]))
    lucky.add(truth + 0.5, truth, truth)
    assert apart.rms_error() == lucky.rms_error() == 0.5
    assert apart.rms_truth() == pytest.approx(np.sqrt(12.5))
    assert apart.scale() == Scale(pytest.approx(0.25 / np.sqrt(2)), 0.25)
    assert lucky.scale() == lucky.floor() == Scale(FLOOR * lucky.rms_truth(), FLOOR * 4)


def test_an_empty_pool_has_no_error():
    pool = ErrorPool(rows=True)
    assert (pool.rms_error(), pool.rms_truth()) == (0, 0)
