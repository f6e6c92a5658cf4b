"""The queue knows how many rows can be joined, and how long a request may wait."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from runtime.errors import ResourceExhausted
from runtime.queueing import QueuePolicy, QueueSettings, RequestQueue


def put(queue, rows, width, **names):
    answer = asyncio.get_running_loop().create_future()
    return queue.put({"x": np.zeros((rows, width), np.float32)}, ["y"], None, answer, **names)


def waiting_rows(queue, sizes, **names):
    for size in sizes:
        put(queue, size, 2, **names)
    return queue.rows()


@pytest.mark.parametrize("levels", [0, 2])
async def test_rows_that_can_be_joined_are_counted_through_all_changes(levels):
    queue = RequestQueue(QueueSettings(levels=levels, default_level=min(levels, 1)))
    assert waiting_rows(queue, [1, 2]) == 3
    other = put(queue, 5, 3)
    assert waiting_rows(queue, [4]) == 7
    assert [item.rows for item in queue.take(3)] == [1, 2]
    assert queue.rows() == 5
    other.answer.cancel()
    queue.drop_dead()
    assert waiting_rows(queue, [2]) == 6
    queue.close(ValueError())
    assert waiting_rows(queue, [1]) == 1


async def test_a_request_of_a_higher_level_is_what_others_are_joined_with():
    queue = RequestQueue(QueueSettings(levels=2, default_level=2))
    assert waiting_rows(queue, [1, 2]) == 3
    put(queue, 5, 3, priority=1)
    assert queue.rows() == 5


def test_a_request_may_wait_less_than_its_level_where_that_is_allowed():
    policy = QueuePolicy(timeout_s=60, allow_timeout_override=True)
    assert policy.wait_s(0.5) == 0.5
    assert policy.wait_s(120) == 60
    assert QueuePolicy(timeout_s=60).wait_s(0.5) == 60
    assert QueuePolicy(allow_timeout_override=True).wait_s(0.5) == 0.5


def delaying(**policy):
    """Three levels of requests that go last once they have waited for a nanosecond."""
    late = QueuePolicy(timeout_s=1e-9, delay_on_timeout=True, **policy)
    return RequestQueue(QueueSettings(levels=3, default_level=2, policies={1: late, 2: late}))


async def test_what_waited_too_long_goes_after_its_level_and_before_the_levels_below():
    queue = delaying()
    put(queue, 2, 2, priority=2)
    put(queue, 1, 2, priority=1)
    put(queue, 3, 2, priority=3)
    queue.drop_dead()
    put(queue, 4, 2, priority=3)
    assert [item.rows for item in queue] == [1, 2, 3, 4]
    assert [item.rows for item in queue.take(6)] == [1, 2, 3]
    assert len(queue) == 1


async def test_what_waited_too_long_counts_in_a_level_that_is_full():
    queue = delaying(max_queue_size=2)
    put(queue, 1, 2, priority=1)
    put(queue, 1, 2, priority=1)
    with pytest.raises(ResourceExhausted, match="2 requests wait already"):
        put(queue, 1, 2, priority=1)
    next(iter(queue)).answer.cancel()
    put(queue, 1, 2, priority=1)
