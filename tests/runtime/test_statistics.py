"""Counts and times of a model, as Triton counts them."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from runtime.batch_call import Lane
from runtime.batch_settings import BatchSettings
from runtime.batching import Batcher
from runtime.errors import InvalidInput
from runtime.statistics import CallTimes, Failure, Histogram, Statistics
from runtime.worker import Worker


@pytest.fixture
def batcher():
    def run(arrays, names):
        if (arrays["x"] < 0).any():
            raise InvalidInput("below 0")
        return dict.fromkeys(names, arrays["x"])

    worker = Worker("test")
    yield Batcher([Lane(run, worker)], BatchSettings(max_rows=8), Statistics())
    worker.close()


def x(value, rows=1):
    return {"x": np.full((rows, 1), value, np.float32)}


def test_a_call_counts_once_and_its_requests_each():
    statistics = Statistics()
    statistics.called(CallTimes(5, (100, 300), input_ns=10, infer_ns=20, output_ns=5))
    assert (statistics.inferences, statistics.executions) == (5, 1)
    assert (statistics.success.count, statistics.success.ns) == (2, 100 + 300 + 2 * 35)
    assert (statistics.queue.count, statistics.queue.ns) == (2, 400)
    assert (statistics.infer.count, statistics.infer.ns) == (2, 40)
    assert statistics.batches[5].infer.ns == 20
    assert statistics.last_ms > 0


def test_a_value_on_a_bound_belongs_below_it():
    histogram = Histogram((1, 2))
    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)
    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 8


async def test_requests_that_share_a_call_are_counted_with_their_rows(batcher):
    await asyncio.gather(batcher.submit(x(1), ["y"]), batcher.submit(x(2, rows=3), ["y"]))
    found = batcher.statistics
    assert (found.executions, found.inferences, found.success.count) == (1, 4, 2)
    assert found.batch_rows.sum == 4
    assert found.success.ns >= found.queue.ns + found.infer.ns > 0


async def test_a_failure_has_its_reason(batcher):
    with pytest.raises(InvalidInput):
        await batcher.submit(x(-1), ["y"])
    gone = asyncio.create_task(batcher.submit(x(1), ["y"]))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert batcher.statistics.failures == {Failure.BACKEND: 1, Failure.CANCELED: 1}
    assert batcher.statistics.fail.count == 2
