"""A delay ends as soon as waiting brings nothing, on the event loop that servers run on."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest
import uvloop

from runtime.batch_call import Lane
from runtime.batch_settings import BatchSettings
from runtime.batching import Batcher
from runtime.statistics import Statistics
from runtime.worker import Worker

FOR_EVER_S = 3600.0


class Recording:
    """A model that gives back ``x`` and keeps what it was called with."""

    def __init__(self):
        self.calls = []
        self.begun, self.open = threading.Event(), threading.Event()
        self.open.set()

    def __call__(self, arrays, _names):
        self.begun.set()
        assert self.open.wait(30)
        self.calls.append(arrays["x"][:, 0].tolist())
        return {"y": arrays["x"]}


@pytest.fixture
def model():
    return Recording()


@pytest.fixture
def run(model):
    """Run what is done with a batcher, to its end, on uvloop."""
    worker = Worker("test")

    def run(work, **settings):
        async def main():
            async with asyncio.timeout(30):
                await work(Batcher([Lane(model, worker)], BatchSettings(**settings), Statistics()))

        uvloop.run(main())

    yield run
    model.open.set()
    worker.close()


def asked(batcher, *values, rows=1):
    return [
        asyncio.create_task(batcher.submit({"x": np.full((rows, 2), value, np.float32)}, ["y"]))
        for value in values
    ]


async def waiting(batcher, count):
    while batcher.waiting < count:
        await asyncio.sleep(0)


async def shut(model, batcher, rows=1):
    """Occupy the backend with a request of the value 0 until the gate opens."""
    model.open.clear()
    tasks = asked(batcher, 0, rows=rows)
    await asyncio.to_thread(model.begun.wait, 30)
    return tasks


@pytest.mark.parametrize("preferred", [(), (2,)])
def test_a_call_that_is_large_enough_does_not_wait_for_the_delay(model, run, preferred):
    async def work(batcher):
        first = asked(batcher, 1)
        while not batcher._patient:
            await asyncio.sleep(0)
        await asyncio.gather(*first, *asked(batcher, 2))

    run(work, max_rows=8 if preferred else 2, preferred=preferred, delay_s=FOR_EVER_S)
    assert model.calls == [[1, 2]]


def test_of_what_waits_the_largest_preferred_size_goes_and_the_rest_waits(model, run):
    async def work(batcher):
        first = await shut(model, batcher, rows=2)
        others = asked(batcher, *range(1, 8))
        await waiting(batcher, 7)
        model.open.set()
        await asyncio.gather(*first, *others[:6])
        assert model.calls == [[0, 0], [1, 2, 3, 4], [5, 6]]
        assert not others[6].done(), "it waits for another"
        await asyncio.gather(others[6], *asked(batcher, 8))

    run(work, max_rows=16, preferred=(2, 4), delay_s=FOR_EVER_S)
    assert model.calls[3:] == [[7, 8]]


def test_what_has_waited_for_its_delay_goes_whatever_is_preferred(model, run):
    async def work(batcher):
        first = await shut(model, batcher)
        others = asked(batcher, 1, 2, 3)
        await waiting(batcher, 3)
        delay_is_over = time.monotonic() + 1e-3
        while time.monotonic() < delay_is_over:
            await asyncio.sleep(0)
        model.open.set()
        await asyncio.gather(*first, *others)

    run(work, max_rows=16, preferred=(2,), delay_s=1e-4)
    assert model.calls == [[0], [1, 2, 3]]


def test_a_delay_ends_although_nobody_comes(model, run):
    async def work(batcher):
        await asyncio.gather(*asked(batcher, 1))

    run(work, max_rows=8, delay_s=0.005)
    assert model.calls == [[1]]


@pytest.mark.parametrize("preferred", [(), (2,)])
def test_one_that_was_given_up_does_not_end_the_delay_of_others(model, run, preferred):
    async def work(batcher):
        (gone,) = asked(batcher, 1)
        await waiting(batcher, 1)
        gone.cancel()
        kept = asked(batcher, 2)
        for _turn in range(1000):
            await asyncio.sleep(0)
        assert model.calls == []
        await asyncio.gather(*kept, *asked(batcher, 3))

    run(work, max_rows=8 if preferred else 2, preferred=preferred, delay_s=FOR_EVER_S)
    assert model.calls == [[2, 3]]


def test_those_that_come_while_a_lone_answer_is_made_are_joined(model, run):
    def slow(_outputs):
        time.sleep(0.001)

    async def burst(batcher):
        x = {"x": np.zeros((1, 2), np.float32)}
        await asyncio.gather(*(batcher.submit(x, ["y"], finish=slow) for _ in range(16)))

    async def work(batcher):
        await burst(batcher)  # now it is known that calls are short
        model.calls.clear()
        for _ in range(5):
            await burst(batcher)

    run(work, max_rows=32)
    assert len(model.calls) <= 10


def test_what_waits_for_its_delay_goes_at_once_where_the_model_leaves(model, run):
    async def work(batcher):
        tasks = asked(batcher, 1)
        await waiting(batcher, 1)
        await batcher.idle()
        await asyncio.gather(*tasks)

    run(work, max_rows=8, delay_s=FOR_EVER_S)
    assert model.calls == [[1]]


def test_of_a_call_that_was_handed_over_only_what_is_still_wanted_is_computed(model, run):
    async def work(batcher):
        first = await shut(model, batcher)
        others = asked(batcher, 1, 2, 3, 4)
        await waiting(batcher, 4)
        while batcher.waiting:
            await asyncio.sleep(0)  # the thread has them
        for task in others[1:]:
            task.cancel()
        await asyncio.gather(*others[1:], return_exceptions=True)
        model.open.set()
        await asyncio.gather(*first, others[0])

    run(work, max_rows=4)
    assert model.calls == [[0], [1]]
