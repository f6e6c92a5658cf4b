"""When the latest comparisons say that a version drifts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from runtime.shadow.comparison import Comparison, OutputDifference
from runtime.shadow.window import DIFFERING_ROWS, LEAST, WINDOW, Window
from runtime.shadow.yardstick import Yardstick


def numbers(rms, elements=10):
    return Comparison(False, 1, outputs={"y": OutputDifference(rms**2 * elements, elements, 0, 1)})


def labels(differing, rows=1):
    return Comparison(False, rows, outputs={"label": OutputDifference(0, 0, differing, rows)})


@pytest.fixture
def window():
    return Window({"y": Yardstick(1e-6, 1e-6, 4.5)})


def last(window, items):
    for item in items:
        drift = window.add(item)
    return drift


def test_nothing_is_said_before_64_requests(window):
    assert not last(window, [numbers(100)] * (LEAST - 1)).reason
    drift = window.add(numbers(100))
    assert drift.reason == (
        "output 'y' is off the reference by 100 x float32's own error over 64 requests; at most 4.5"
    )


def test_the_error_is_pooled_and_the_limit_is_of_the_pool(window):
    assert not last(window, [numbers(30), *[numbers(1)] * 255]).reason
    assert last(window, [numbers(30), *[numbers(1)] * 40, *[numbers(6)] * 200]).reason


def test_what_leaves_the_window_is_forgotten(window):
    assert last(window, [numbers(math.inf)] * LEAST).reason
    drift = last(window, [numbers(1)] * WINDOW)
    assert not drift.reason
    assert drift.outputs["y"].rms == pytest.approx(1)


def test_an_error_that_is_no_number_is_a_drift(window):
    assert last(window, [numbers(1)] * 100 + [numbers(math.nan)]).reason


def test_extreme_requests_do_not_count(window):
    drift = last(window, [Comparison(True, 1, differs=True)] * 1000)
    assert not drift.reason
    assert not drift.outputs


def test_whole_numbers_may_differ_in_one_row_of_a_hundred(window):
    assert not last(window, [labels(1, 100)] * LEAST).reason
    assert "differs from the reference in" in last(window, [labels(2, 100)] * WINDOW).reason


def test_few_rows_are_no_share(window):
    assert not last(window, [labels(1)] * (DIFFERING_ROWS - 1) + [labels(0)] * LEAST).reason
    assert last(window, [labels(1)]).reason


def test_rows_of_other_experts_are_left_out_up_to_one_of_a_hundred(window):
    routed = Comparison(False, 100, rerouted=1, outputs={})
    assert not last(window, [routed] * WINDOW).reason
    more = Comparison(False, 100, rerouted=2, outputs={})
    assert "went to other experts" in last(window, [more] * WINDOW).reason


def test_each_output_has_a_window_of_its_own(window):
    both = Comparison(
        False, 1, outputs={"y": OutputDifference(10, 10, 0, 1), "z": OutputDifference(0, 0, 0, 1)}
    )
    drift = last(window, [*[numbers(1)] * 10, *[both] * 5])
    assert {name: item.requests for name, item in drift.outputs.items()} == {"y": 15, "z": 5}
    assert np.isclose(drift.outputs["y"].rms, 1)
