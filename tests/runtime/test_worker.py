"""Calls run one after the other, short ones at once, and none for nobody."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from runtime.errors import DeadlineExceeded
from runtime.worker import INLINE_LIMIT_S, Worker


@pytest.fixture
def worker():
    worker = Worker("test")
    yield worker
    worker.close()


class Gate:
    """A call that runs until it is let go."""

    def __init__(self):
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.open.wait(30)
        return "through"


async def begun(gate):
    await asyncio.to_thread(gate.begun.wait, 30)


def thread_name():
    return threading.current_thread().name


async def test_a_first_call_runs_in_the_thread_and_short_ones_then_run_at_once(worker):
    assert (await worker.run(thread_name, 10**6, None)).startswith("test")
    assert worker.runs_inline(1)
    assert await worker.run(thread_name, 1, None) == threading.current_thread().name


async def test_a_call_that_takes_long_never_runs_on_the_loop(worker):
    await worker.run(lambda: time.sleep(10 * INLINE_LIMIT_S), 1, None)
    assert (await worker.run(thread_name, 1, None)).startswith("test")


async def test_a_call_that_is_larger_than_those_before_is_expected_to_take_longer(worker):
    await worker.run(lambda: time.sleep(INLINE_LIMIT_S), 1000, None)
    assert not worker.runs_inline(1000)
    assert not worker.runs_inline(10**9)


async def test_the_loop_goes_on_while_a_call_runs(worker):
    gate = Gate()
    running = asyncio.create_task(worker.run(gate, 1, None))
    await begun(gate)
    await asyncio.sleep(0)
    assert not running.done()
    gate.open.set()
    assert await running == "through"


async def test_one_call_runs_at_a_time(worker):
    active, most = 0, 0

    def call():
        nonlocal active, most
        active += 1
        most = max(most, active)
        time.sleep(0.001)
        active -= 1

    await asyncio.gather(*(worker.run(call, 1, None) for _ in range(20)))
    assert most == 1


async def test_nothing_runs_at_once_while_the_thread_is_taken(worker):
    await worker.run(lambda: None, 10**6, None)
    gate = Gate()
    running = asyncio.create_task(worker.run(gate, 10**15, None))
    await begun(gate)
    assert not worker.runs_inline(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not worker.runs_inline(1), "the caller gave up, the thread is still taken"
    assert worker.busy
    gate.open.set()
    while worker.busy:
        await asyncio.sleep(0.001)


async def test_what_is_too_late_never_runs(worker):
    ran = []
    with pytest.raises(DeadlineExceeded):
        await worker.run(lambda: ran.append(1), 1, time.monotonic() - 1)
    await worker.run(lambda: None, 10**6, None)
    assert worker.runs_inline(1)
    with pytest.raises(DeadlineExceeded):
        await worker.run(lambda: ran.append(1), 1, time.monotonic() - 1)
    assert ran == []


async def test_what_waits_beyond_its_deadline_fails_in_time_and_never_runs(worker):
    gate, ran = Gate(), []
    running = asyncio.create_task(worker.run(gate, 1, None))
    await begun(gate)
    with pytest.raises(DeadlineExceeded):
        await worker.run(lambda: ran.append(1), 1, time.monotonic() + 0.02)
    gate.open.set()
    await running
    await worker.run(lambda: None, 1, None)
    assert ran == []


async def test_what_is_cancelled_while_it_waits_never_runs(worker):
    gate, ran = Gate(), []
    running = asyncio.create_task(worker.run(gate, 1, None))
    await begun(gate)
    waiting = asyncio.create_task(worker.run(lambda: ran.append(1), 1, None))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.open.set()
    await running
    await worker.run(lambda: None, 1, None)
    assert ran == []


async def test_an_error_of_the_call_reaches_the_caller(worker):
    def failing():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await worker.run(failing, 1, None)
    assert await worker.run(lambda: 3, 1, None) == 3


async def test_what_small_calls_cost_is_not_scaled_up_to_sizes_that_are_known():
    worker = Worker("w")
    await worker.run(lambda: None, 64, None)
    await worker.run(lambda: time.sleep(2 * INLINE_LIMIT_S), 1, None)
    assert not worker.runs_inline(1)
    assert worker.runs_inline(64)
    worker.close()


async def test_a_size_not_seen_is_judged_by_the_nearest_one():
    worker = Worker("w")
    await worker.run(lambda: time.sleep(INLINE_LIMIT_S / 4), 16, None)
    assert worker.runs_inline(1)
    assert not worker.runs_inline(16 * 64)
    worker.close()
