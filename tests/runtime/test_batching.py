"""What waits is joined, rows go back to their request, and nothing is computed for nobody."""

from __future__ import annotations

import asyncio
import threading
import time

import numpy as np
import pytest

from runtime import batch_call, batching
from runtime.batch_call import Lane
from runtime.batch_settings import BatchSettings
from runtime.batching import Batcher
from runtime.errors import DeadlineExceeded, InvalidInput, ResourceExhausted, Unavailable
from runtime.queueing import QueuePolicy, QueueSettings
from runtime.statistics import Statistics
from runtime.worker import Worker


class Doubling:
    """A model that doubles ``x``; its calls wait while the gate is shut."""

    def __init__(self):
        self.calls, self.names = [], []
        self.begun, self.open = threading.Event(), threading.Event()
        self.open.set()

    def __call__(self, arrays, names):
        self.begun.set()
        assert self.open.wait(30)
        x = arrays["x"]
        self.calls.append(x[:, 0].tolist())
        self.names.append(list(names))
        if (x < 0).any():
            raise InvalidInput("x is below 0")
        answers = {"y": x * 2, "z": x + 1}
        return {name: answers[name] for name in names}


@pytest.fixture
def model():
    return Doubling()


@pytest.fixture
def batcher_of(model):
    worker = Worker("test")
    # The first call tells how long calls take; only then short ones run at once.
    yield lambda **settings: Batcher([Lane(model, worker)], BatchSettings(**settings), Statistics())
    model.open.set()
    worker.close()


def x(value, rows=1, width=2):
    return {"x": np.full((rows, width), value, np.float32)}


async def shut(model, batcher):
    """Occupy the backend with a request of the value 0 until the gate opens."""
    return await shut_with(model, batcher, 1)


async def shut_with(model, batcher, rows):
    model.open.clear()
    model.begun.clear()
    task = asyncio.create_task(batcher.submit(x(0, rows=rows), ["y"]))
    await asyncio.to_thread(model.begun.wait, 30)
    return task


async def queued(batcher, count):
    async with asyncio.timeout(30):
        while batcher.waiting < count:
            await asyncio.sleep(0)


async def test_a_request_that_is_alone_goes_alone(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    answer = await batcher.submit(x(3, rows=2), ["y"])
    assert answer["y"].tolist() == [[6, 6], [6, 6]]
    assert list(answer) == ["y"]
    assert model.calls == [[3, 3]]


async def test_what_waits_when_the_backend_is_free_goes_together(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    first = await shut(model, batcher)
    others = [asyncio.create_task(batcher.submit(x(v), ["y"])) for v in (1, 2, 3)]
    await queued(batcher, 3)
    model.open.set()
    answers = await asyncio.gather(first, *others)
    assert model.calls == [[0], [1, 2, 3]]
    assert [answer["y"][0, 0] for answer in answers] == [0, 2, 4, 6]


async def test_requests_of_one_moment_share_the_first_call(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    await asyncio.gather(*(batcher.submit(x(value), ["y"]) for value in range(8)))
    assert model.calls == [[0, 1, 2, 3, 4, 5, 6, 7]]


async def turns(count):
    for _turn in range(count):
        await asyncio.sleep(0)


async def test_requests_that_come_over_some_turns_of_the_loop_share_a_call(model, batcher_of):
    batcher = batcher_of(max_rows=8, quiet_turns=5)
    tasks = []
    for value in range(4):
        tasks.append(asyncio.create_task(batcher.submit(x(value), ["y"])))
        await turns(1 if value < 2 else 3)
    await asyncio.gather(*tasks)
    assert model.calls == [[0, 1, 2, 3]]


async def test_a_request_after_another_waits_for_nobody(model, batcher_of, monkeypatch):
    monkeypatch.setattr(batching, "OVERLAP_NS", 0)
    monkeypatch.setattr(batching, "GATHER_SECONDS", 30.0)
    batcher = batcher_of(max_rows=8, quiet_turns=10**9)
    async with asyncio.timeout(10):
        for value in range(20):
            await batcher.submit(x(value), ["y"])
            await turns(2)
    assert model.calls == [[value] for value in range(20)]


async def test_a_request_that_is_alone_is_answered_without_a_turn_of_the_loop(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    await batcher.submit(x(0), ["y"])  # by a thread: nobody knows yet how long it takes
    await batcher.submit(x(1), ["y"])
    await asyncio.sleep(0.01)
    step = batcher.submit(x(2), ["y"])
    with pytest.raises(StopIteration) as ended:
        step.send(None)
    assert ended.value.value["y"].tolist() == [[4, 4]]


async def test_those_that_come_in_the_same_turn_as_one_that_is_alone_share_a_call(
    model, batcher_of
):
    batcher = batcher_of(max_rows=8)
    await batcher.submit(x(0), ["y"])
    await asyncio.sleep(0.01)
    await asyncio.gather(*(batcher.submit(x(value), ["y"]) for value in range(1, 6)))
    assert model.calls == [[0], [1], [2, 3, 4, 5]]
    await asyncio.sleep(0.01)
    await asyncio.gather(*(batcher.submit(x(value), ["y"]) for value in range(6, 9)))
    assert model.calls[3:] == [[6, 7, 8]], "they come side by side now"


async def test_a_call_that_cannot_grow_is_handed_over_before_the_one_ahead_ends(model, batcher_of):
    batcher = batcher_of(max_rows=2)
    first = await shut(model, batcher)
    others = [asyncio.create_task(batcher.submit(x(v, rows=2), ["y"])) for v in (1, 2)]
    await queued(batcher, 1)
    await turns(5)
    assert batcher.waiting == 1, "the thread has one ahead, and no more than one"
    model.open.set()
    await asyncio.gather(first, *others)
    assert model.calls == [[0], [1, 1], [2, 2]]


async def test_what_was_handed_over_and_given_up_is_not_computed(model, batcher_of):
    batcher = batcher_of(max_rows=2)
    first = await shut(model, batcher)
    gone = asyncio.create_task(batcher.submit(x(1, rows=2), ["y"]))
    await turns(5)
    assert batcher.waiting == 0, "it is in the thread's hands"
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    model.open.set()
    await first
    await batcher.idle()
    assert model.calls == [[0]]


async def test_what_the_answer_is_made_of_may_fail_alone(model, batcher_of):
    def finish(outputs):
        if outputs["y"][0, 0] == 2:
            raise ValueError("not this one")
        return float(outputs["y"][0, 0])

    batcher = batcher_of(max_rows=8)
    answers = await asyncio.gather(
        *(batcher.submit(x(value), ["y"], finish=finish) for value in range(3)),
        return_exceptions=True,
    )
    assert answers[0] == 0
    assert isinstance(answers[1], ValueError)
    assert answers[2] == 4
    assert model.calls == [[0, 1, 2]]


async def test_memory_that_is_used_up_leaves_nobody_waiting(model, batcher_of, monkeypatch):
    def exhausted(_requests):
        raise MemoryError

    batcher = batcher_of(max_rows=8)
    monkeypatch.setattr(batch_call, "joined", exhausted)
    async with asyncio.timeout(10):
        answers = await asyncio.gather(
            *(batcher.submit(x(value), ["y"]) for value in (1, 2)), return_exceptions=True
        )
    assert [type(answer) for answer in answers] == [MemoryError] * 2
    monkeypatch.undo()
    assert (await batcher.submit(x(3), ["y"]))["y"][0, 0] == 6


async def test_no_call_has_more_rows_than_the_model_takes(model, batcher_of):
    batcher = batcher_of(max_rows=4)
    await asyncio.gather(*(batcher.submit(x(value, rows=3), ["y"]) for value in range(3)))
    assert model.calls == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


async def test_nothing_overtakes_a_request_that_is_too_large_for_the_rest_of_a_call(
    model, batcher_of
):
    batcher = batcher_of(max_rows=4)
    sizes = (3, 4, 1)
    await asyncio.gather(*(batcher.submit(x(size, rows=size), ["y"]) for size in sizes))
    assert model.calls == [[3, 3, 3], [4, 4, 4, 4], [1]]


async def test_a_model_that_cannot_be_joined_gets_one_request_a_call(model, batcher_of):
    batcher = batcher_of(max_rows=0)
    await asyncio.gather(*(batcher.submit(x(value), ["y"]) for value in range(3)))
    assert model.calls == [[0], [1], [2]]


async def test_requests_of_other_shapes_go_in_calls_of_their_own(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    widths = (2, 3, 2, 3)
    answers = await asyncio.gather(
        *(batcher.submit(x(i, width=width), ["y"]) for i, width in enumerate(widths))
    )
    assert model.calls == [[0, 2], [1, 3]]
    assert [answer["y"].tolist() for answer in answers] == [
        [[2 * i] * width] for i, width in enumerate(widths)
    ]


async def test_each_request_gets_the_outputs_that_it_named(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    wanted = (["y"], ["z"], ["z", "y"])
    answers = await asyncio.gather(*(batcher.submit(x(1), names) for names in wanted))
    assert [list(answer) for answer in answers] == [["y"], ["z"], ["z", "y"]]
    assert model.names == [["y", "z"]]


async def test_thousands_of_requests_get_their_own_rows(model, batcher_of):
    batcher = batcher_of(max_rows=64)
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 3000)

    async def ask(value, rows):
        await asyncio.sleep(0)  # they come in over many turns of the loop
        return await batcher.submit(x(value, rows=rows), ["y"])

    answers = await asyncio.gather(*(ask(i, rows) for i, rows in enumerate(sizes)))
    for value, (rows, answer) in enumerate(zip(sizes, answers, strict=True)):
        assert answer["y"].shape == (rows, 2)
        assert (answer["y"] == 2 * value).all()
    assert len(model.calls) < 1000, "they were joined"


async def test_a_request_that_was_given_up_costs_nothing(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    first = await shut(model, batcher)
    gone = asyncio.create_task(batcher.submit(x(1), ["y"]))
    kept = asyncio.create_task(batcher.submit(x(2), ["y"]))
    await queued(batcher, 2)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    model.open.set()
    await asyncio.gather(first, kept)
    assert model.calls == [[0], [2]]


async def test_a_request_whose_deadline_is_over_is_told_so_and_never_computed(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    first = await shut(model, batcher)
    late = batcher.submit(x(1), ["y"], time.monotonic() + 0.02)
    with pytest.raises(DeadlineExceeded, match="deadline"):
        await late
    model.open.set()
    await first
    assert (await batcher.submit(x(2), ["y"]))["y"][0, 0] == 4
    assert model.calls == [[0], [2]]


async def test_a_full_queue_refuses_at_once(model, batcher_of):
    batcher = batcher_of(max_rows=8, queue=QueueSettings(policy=QueuePolicy(max_queue_size=2)))
    first = await shut(model, batcher)
    kept = [asyncio.create_task(batcher.submit(x(v), ["y"])) for v in (1, 2)]
    await queued(batcher, 2)
    with pytest.raises(ResourceExhausted, match="2 requests wait already"):
        await batcher.submit(x(3), ["y"])
    kept[0].cancel()
    await asyncio.gather(kept[0], return_exceptions=True)
    last = asyncio.create_task(batcher.submit(x(4), ["y"]))
    await queued(batcher, 2)
    model.open.set()
    await asyncio.gather(first, kept[1], last)
    assert model.calls == [[0], [2, 4]], "who gave up leaves a place free"


async def test_a_higher_priority_goes_first(model, batcher_of):
    batcher = batcher_of(max_rows=1, queue=QueueSettings(levels=3, default_level=2))
    first = await shut(model, batcher)
    levels = (3, 0, 1, 9)
    tasks = [
        asyncio.create_task(batcher.submit(x(i + 1), ["y"], priority=level))
        for i, level in enumerate(levels)
    ]
    await queued(batcher, 4)
    model.open.set()
    await asyncio.gather(first, *tasks)
    assert model.calls == [[0], [3], [2], [4], [1]]


@pytest.mark.parametrize("delayed", [False, True])
async def test_what_waited_too_long_is_rejected_or_goes_last(model, batcher_of, delayed):
    policy = QueuePolicy(timeout_s=1e-4, delay_on_timeout=delayed, allow_timeout_override=True)
    batcher = batcher_of(max_rows=1, queue=QueueSettings(2, 2, policies={1: policy}))
    first = await shut(model, batcher)
    old = asyncio.create_task(batcher.submit(x(1), ["y"], priority=1))
    await queued(batcher, 1)
    patience = time.monotonic() + 1e-3
    while time.monotonic() < patience:
        await asyncio.sleep(0)
    model.open.set()
    answers = await asyncio.gather(first, old, return_exceptions=True)
    if delayed:
        assert answers[1]["y"][0, 0] == 2
    else:
        assert isinstance(answers[1], DeadlineExceeded)
        assert model.calls == [[0]]


async def test_where_no_preferred_size_can_be_made_all_goes_without_a_delay(model, batcher_of):
    batcher = batcher_of(max_rows=16, preferred=(4,))
    first = await shut(model, batcher)
    others = [asyncio.create_task(batcher.submit(x(v, rows=3), ["y"])) for v in (1, 2, 3)]
    await queued(batcher, 3)
    model.open.set()
    await asyncio.gather(first, *others)
    assert model.calls == [[0], [1, 1, 1, 2, 2, 2, 3, 3, 3]]


async def test_a_request_that_the_backend_refuses_fails_alone(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    answers = await asyncio.gather(
        *(batcher.submit(x(value), ["y"]) for value in (1, -1, 2)), return_exceptions=True
    )
    assert [answers[0]["y"][0, 0], answers[2]["y"][0, 0]] == [2, 4]
    assert isinstance(answers[1], InvalidInput)


async def test_a_defect_reaches_everybody_and_the_next_request_is_answered(batcher_of):
    def failing(arrays, _names):
        if (arrays["x"] == 1).any():
            raise ZeroDivisionError
        return {"y": arrays["x"]}

    worker = Worker("failing")
    batcher = Batcher([Lane(failing, worker)], BatchSettings(max_rows=8), Statistics())
    answers = await asyncio.gather(
        *(batcher.submit(x(value), ["y"]) for value in (1, 2)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [ZeroDivisionError] * 2
    assert (await batcher.submit(x(3), ["y"]))["y"][0, 0] == 3
    worker.close()


async def test_outputs_without_the_rows_of_the_call_are_a_defect(batcher_of):
    worker = Worker("short")
    lane = Lane(lambda arrays, _names: {"y": arrays["x"][:1]}, worker)
    batcher = Batcher([lane], BatchSettings(max_rows=8), Statistics())
    answers = await asyncio.gather(
        *(batcher.submit(x(value), ["y"]) for value in (1, 2)), return_exceptions=True
    )
    assert all(isinstance(answer, ValueError) for answer in answers)
    worker.close()


async def test_closing_answers_what_waits(model, batcher_of):
    batcher = batcher_of(max_rows=8)
    first = await shut(model, batcher)
    waiting = asyncio.create_task(batcher.submit(x(1), ["y"]))
    await queued(batcher, 1)
    batcher.close()
    with pytest.raises(Unavailable, match="unloaded"):
        await waiting
    with pytest.raises(Unavailable, match="unloaded"):
        await batcher.submit(x(2), ["y"])
    model.open.set()
    assert (await first)["y"][0, 0] == 0
