from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import PlacementError
from runtime.experts.predict import forecast, within_bounds
from runtime.experts.traces import drifting, still


def error(expected: np.ndarray, came: np.ndarray) -> float:
    return float(np.std(np.log(came + 0.5) - np.log(expected + 0.5)))


def test_where_windows_scatter_about_what_stays_the_forecast_is_near_the_mean():
    base = np.random.default_rng(0).standard_normal((6, 64))
    counts = drifting(1, 9, (6, 64), keeps=0.0, sigma=0.4, base=base).counts
    expected = forecast(counts[:-1])
    assert error(expected.load, counts[-1]) < 0.85 * error(counts[-2], counts[-1])
    assert expected.spread == pytest.approx(0.42, abs=0.05)


def test_where_load_wanders_the_forecast_is_as_good_as_the_last_window():
    counts = drifting(2, 9, (6, 64), keeps=0.98).counts
    expected = forecast(counts[:-1])
    assert error(expected.load, counts[-1]) < 1.02 * error(counts[-2], counts[-1])
    assert error(expected.load, counts[-1]) < 0.8 * error(counts[:-1].mean(0), counts[-1])


def test_the_forecast_keeps_the_tokens_of_each_layer():
    counts = still(3, 5, np.ones((2, 8))).counts
    assert np.allclose(forecast(counts).load.sum(1), counts[-1].sum(1))


def test_one_window_is_its_own_forecast():
    counts = still(3, 2, np.ones((2, 8))).counts
    assert np.array_equal(forecast(counts[:1]).load, counts[0])
    assert forecast(counts[:1]).spread == 0


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        (np.ones((2, 3)), r"shape \[2, 3\]"),
        (np.ones((0, 2, 3)), "none 0"),
        (-np.ones((1, 2, 3)), "negative"),
        (np.full((1, 2, 3), np.nan), "not finite"),
    ],
)
def test_what_are_no_counts_is_refused(windows, said):
    with pytest.raises(PlacementError, match=said):
        forecast(windows)


def test_a_jump_after_windows_alike_is_not_continued_beyond_what_was_seen():
    rng = np.random.default_rng(3)
    one, two = np.exp(rng.standard_normal((2, 3, 8)))
    windows = [rng.poisson(800 * each) for each in (one, one, two)]
    expected = forecast(np.stack(windows)).load
    error = np.abs(np.log(expected) - np.log(windows[-1] + 0.5)).mean()
    assert error < np.abs(np.log(windows[0] + 0.5) - np.log(windows[-1] + 0.5)).mean()


def test_the_weights_of_the_forecast_are_the_best_within_their_bounds():
    rng = np.random.default_rng(4)
    part = np.linspace(0, 1, 201)
    grid = np.array([(a, b) for a in part for b in part if a + b <= 1 + 1e-12])
    for _ in range(50):
        known = rng.standard_normal((6, 2))
        square, right = known.T @ known, 2 * rng.standard_normal(2)
        found = within_bounds(square, right)
        assert found.min() >= 0
        assert found.sum() <= 1 + 1e-12

        def loss(weights, square=square, right=right):
            return ((weights @ square) * weights).sum(-1) / 2 - weights @ right

        assert loss(found) <= loss(grid).min() + 1e-9
