"""A range is where rounding and clipping together cost least, on the inputs given."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.precision.quantise import LEVELS
from exporter.precision.ranges import BINS, HEADROOM, best_range, input_scales
from exporter.precision.run import largest_magnitudes

RNG = np.random.RandomState(0)


def error(values, limit):
    step = limit / LEVELS
    return np.square(np.clip(np.rint(values / step), -LEVELS, LEVELS) * step - values).mean()


def counted(values):
    largest = np.abs(values).max()
    return np.histogram(np.abs(values), BINS, (0, largest))[0], float(largest)


def test_evenly_spread_values_keep_their_whole_range():
    values = RNG.uniform(-1, 1, 20_000)
    assert best_range(*counted(values)) == pytest.approx(1.0, abs=0.02)


def test_rare_large_values_are_clipped_where_that_costs_less():
    values = np.concatenate([RNG.standard_normal(100_000), [9.0]])
    limit = best_range(*counted(values))
    assert limit < 8
    assert error(values, limit) < error(values, 9.0)


def test_the_range_is_near_the_best_of_all():
    values = RNG.laplace(size=50_000)
    counts, largest = counted(values)
    found = error(values, best_range(counts, largest))
    best = min(error(values, share * largest) for share in np.linspace(0.3, 1, 141))
    assert found <= best * 1.05


def test_values_that_are_all_zero_get_any_range_above_zero():
    assert best_range(np.zeros(BINS, np.int64), 0.0) > 0


def test_inputs_and_inner_values_are_measured_over_all_calls(graph_of):
    model = graph_of("""g (float[N,4] x) => (float[N,4] y) {
        h = Mul(x, ten)
        y = MatMul(h, w)
    }""", ten=np.float32(10), w=np.eye(4, dtype=np.float32))  # fmt: skip
    calls = [{"x": np.full((2, 4), size, np.float32)} for size in (0.5, 1.0)]
    largest = largest_magnitudes(model, calls)
    assert (largest["x"], largest["h"]) == (1.0, 10.0)
    scales = input_scales(model, calls, largest, ["x", "h"])
    assert scales["h"] == pytest.approx(10 * scales["x"])
    assert 0.9 < scales["x"] * LEVELS / HEADROOM < 1.01


def test_an_input_alone_needs_no_inner_value(graph_of):
    model = graph_of("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }",
                     w=np.eye(4, dtype=np.float32))  # fmt: skip
    calls = [{"x": np.ones((2, 4), np.float32)}]
    assert list(input_scales(model, calls, {"x": 1.0}, ["x"])) == ["x"]


def test_infinity_has_no_size(graph_of):
    model = graph_of("g (float[N] x) => (float[N] y) { y = Neg(x) }")
    largest = largest_magnitudes(model, [{"x": np.float32([1, -np.inf, 3])}])
    assert largest == {"x": 3.0, "y": 3.0}
