"""Calls run one after the other, and what they take is learned."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from runtime.worker import INLINE_LIMIT_S, Worker


@pytest.fixture
def worker():
    worker = Worker("test")
    yield worker
    worker.close()


@pytest.fixture
def takes(worker, monkeypatch):
    """Lets the worker see a call that took so long."""

    def timed(seconds, size=8):
        now_s = iter([0.0, seconds])
        monkeypatch.setattr("runtime.worker.time.perf_counter", lambda: next(now_s))
        worker.timed(lambda: None, size)

    return timed


class Gate:
    """A call that runs until it is let go."""

    def __init__(self):
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.begun.set()
        assert self.open.wait(30)
        return "through"


async def run(worker, call, size):
    """A call in the thread, to its end."""
    ended = asyncio.get_running_loop().create_future()
    worker.start(call, size, ended.set_result)
    return (await ended).result()


def thread_name():
    return threading.current_thread().name


async def test_a_call_runs_in_the_thread_and_its_end_is_told_on_the_loop(worker):
    assert (await run(worker, thread_name, 1)).startswith("test")


async def test_nothing_is_known_to_be_short_before_the_first_call(worker):
    assert not worker.runs_inline(1)
    await run(worker, lambda: None, 10**6)
    assert worker.runs_inline(1)


async def test_a_call_that_takes_long_never_runs_on_the_loop(worker):
    await run(worker, lambda: time.sleep(10 * INLINE_LIMIT_S), 1)
    assert not worker.runs_inline(1)


async def test_a_call_that_is_larger_than_those_before_is_expected_to_take_longer(worker):
    await run(worker, lambda: time.sleep(INLINE_LIMIT_S), 1000)
    assert not worker.runs_inline(1000)
    assert not worker.runs_inline(10**9)


async def test_one_call_that_was_kept_waiting_changes_little(worker, takes):
    takes(0.0)
    takes(5 * INLINE_LIMIT_S)
    assert worker.runs_inline(8)


async def test_a_call_that_is_slow_for_certain_is_believed_at_once(worker, takes):
    takes(0.0)
    takes(20 * INLINE_LIMIT_S)
    assert not worker.runs_inline(8)


async def test_calls_that_become_slow_are_moved_to_the_thread(worker, takes):
    takes(INLINE_LIMIT_S / 2)
    assert worker.runs_inline(8)
    for _ in range(100):
        takes(2 * INLINE_LIMIT_S)
    assert not worker.runs_inline(8)


async def test_the_loop_goes_on_while_a_call_runs(worker):
    gate = Gate()
    running = asyncio.create_task(run(worker, gate, 1))
    await asyncio.to_thread(gate.begun.wait, 30)
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

    await asyncio.gather(*(run(worker, call, 1) for _ in range(20)))
    assert most == 1


async def test_nothing_runs_on_the_loop_while_the_thread_is_taken(worker):
    await run(worker, lambda: None, 10**6)
    gate = Gate()
    running = asyncio.create_task(run(worker, gate, 10**15))
    await asyncio.to_thread(gate.begun.wait, 30)
    assert not worker.runs_inline(1)
    assert worker.busy
    gate.open.set()
    await running
    assert not worker.busy


async def test_an_error_of_the_call_reaches_whoever_is_told(worker):
    def failing():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run(worker, failing, 1)
    assert await run(worker, lambda: 3, 1) == 3


async def test_what_small_calls_cost_is_not_scaled_up_to_sizes_that_are_known(worker, takes):
    takes(0.0, 64)
    takes(2 * INLINE_LIMIT_S, 1)
    assert not worker.runs_inline(1)
    assert worker.runs_inline(64)


async def test_a_size_not_seen_is_judged_by_the_nearest_one(worker, takes):
    takes(INLINE_LIMIT_S / 4, 16)
    assert worker.runs_inline(1)
    assert not worker.runs_inline(16 * 64)
