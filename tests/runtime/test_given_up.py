"""Requests that were given up while they wait count for nothing."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from runtime.batch_call import Lane
from runtime.batch_settings import BatchSettings
from runtime.batching import Batcher
from runtime.errors import DeadlineExceeded, Unavailable
from runtime.statistics import Statistics
from runtime.worker import Worker

MINUTE_NS = 60_000_000_000


@pytest.fixture
def batcher():
    """Lets requests wait for half a minute."""
    worker = Worker("test")
    lane = Lane(lambda arrays, names: dict.fromkeys(names, arrays["x"]), worker)
    yield Batcher([lane], BatchSettings(max_rows=8, delay_s=30.0), Statistics())
    worker.close()


@pytest.fixture
def ask(batcher):
    """Let one more request wait."""

    async def ask(deadline=None):
        before = batcher.waiting
        x = {"x": np.zeros((1, 1), np.float32)}
        task = asyncio.create_task(batcher.submit(x, ["y"], deadline))
        async with asyncio.timeout(30):
            while batcher.waiting == before and not task.done():
                await asyncio.sleep(0)
        return task

    return ask


async def turns():
    """As many as the batcher waits for others, and more."""
    for _turn in range(100):
        await asyncio.sleep(0)


async def test_what_was_cancelled_or_is_too_late_waits_no_more(batcher, ask):
    left, late = await ask(), await ask(time.monotonic() + 0.05)
    waits = await ask()
    assert batcher.waiting == 3
    left.cancel()
    with pytest.raises(DeadlineExceeded):
        await late
    await asyncio.wait([left])
    assert batcher.waiting == 1
    batcher.close()
    with pytest.raises(Unavailable):
        await waits


async def test_the_delay_of_a_request_that_was_given_up_hurries_no_other(batcher, ask):
    left = await ask()
    await turns()
    (item,) = batcher._queue
    item.arrived_ns -= MINUTE_NS
    left.cancel()
    await asyncio.wait([left])
    waits = await ask()
    await turns()
    assert batcher.waiting == 1
    batcher.close()
    with pytest.raises(Unavailable):
        await waits
