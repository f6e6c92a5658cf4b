"""Join what waits for a model into one call.

Nothing is to be set: whatever waits when the backend is free goes together, and a request
that is alone goes at once. An event loop hands requests over one at a time, so before a
call the loop is let run until no more of them come in.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeAlias

from runtime.batch_rows import Arrays, joined, parted
from runtime.errors import DeadlineExceeded, ResourceExhausted, TwinportError, Unavailable
from runtime.queueing import DEADLINE, QueueSettings, RequestQueue, Waiting
from runtime.statistics import CallTimes, Failure, Statistics
from runtime.tensors import Array
from runtime.worker import Worker, check_deadline, too_late

GATHER_SECONDS = 3e-3
"""The most that a first request waits while others keep coming in."""
QUIET_TURNS = 2
"""Turns of the event loop without a new request after which no more are waited for."""
QUIET_SECONDS = 300e-6
"""The same in time, where requests are known to come side by side: a transport with threads of
its own brings them one by one, later than the loop is through with its turns."""
OVERLAP_NS = 60_000
"""A request that comes sooner after an answer was on its way before: no client is that fast."""
_NEWEST = 0.2
"""Weight of the newest request in whether requests come side by side."""
COARSE_SECONDS = 1e-3
"""What a timer of the event loop can tell apart; shorter delays are spent in turns."""

Run: TypeAlias = Callable[[Arrays, Sequence[str]], dict[str, Array]]


@dataclass(frozen=True)
class BatchSettings:
    """How requests are joined.

    Attributes:
        max_rows: Rows of one call; 0 where requests cannot be joined.
        delay_s: How long the first request of a call waits for others to come.
        preferred: Rows at which it waits no longer, ascending.
        queue: What may wait.
    """

    max_rows: int = 0
    delay_s: float = 0.0
    preferred: tuple[int, ...] = ()
    queue: QueueSettings = field(default_factory=QueueSettings)


@dataclass(frozen=True)
class Lane:
    """One instance of a model.

    Attributes:
        run: One call: inputs by name and names of outputs to outputs by name.
        worker: Where its calls run, one after the other.
    """

    run: Run
    worker: Worker


class Batcher:
    """The queue of one model and the task that empties it; the lane that is free goes next."""

    def __init__(
        self, lanes: Sequence[Lane], settings: BatchSettings, statistics: Statistics
    ) -> None:
        """Join requests.

        Args:
            lanes: What runs them, one or more.
            settings: How requests are joined.
            statistics: Where calls and failures are counted.
        """
        self.statistics = statistics
        self._free = list(lanes)
        self._alone = len(self._free) == 1
        self._calls: set[asyncio.Task[None]] = set()
        self._settings = settings
        self._queue = RequestQueue(settings.queue)
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._crowd = 1  # requests of the last call
        self._beside = 0.0  # share of the newest requests that came beside others
        self._answered_ns = 0

    async def submit(
        self,
        arrays: Arrays,
        outputs: Sequence[str],
        deadline: float | None = None,
        *,
        priority: int = 0,
        timeout_s: float = 0.0,
    ) -> dict[str, Array]:
        """Wait for the answer to one request.

        Args:
            arrays: Every input, in the order of the model's inputs, checked.
            outputs: The outputs wanted.
            deadline: On the clock of ``time.monotonic``.
            priority: Its level; 0 takes the default.
            timeout_s: The longest that it may wait in the queue; 0 is no limit of its own.

        Returns:
            The outputs wanted, of this request's rows alone; nobody may write to them.

        Raises:
            DeadlineExceeded: It waited too long; its call is not made.
            ResourceExhausted: Too many wait already.
            Unavailable: The model is being unloaded.
        """
        start = time.monotonic_ns()
        try:
            return await self._answer(
                arrays, outputs, deadline, priority=priority, timeout_s=timeout_s
            )
        except BaseException as error:
            self.statistics.failed(_reason(error), time.monotonic_ns() - start)
            raise

    async def _answer(
        self,
        arrays: Arrays,
        outputs: Sequence[str],
        deadline: float | None,
        *,
        priority: int,
        timeout_s: float,
    ) -> dict[str, Array]:
        check_deadline(deadline)
        if self._closed:
            raise _unloaded()
        item = self._queue.put(arrays, outputs, deadline, priority=priority, timeout_s=timeout_s)
        self._arrived.set()
        beside = len(self._queue) > 1 or item.arrived_ns - self._answered_ns < OVERLAP_NS
        self._beside += _NEWEST * (beside - self._beside)
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        left = item.left()
        if left is None:
            return await item.answer
        try:
            async with asyncio.timeout(left) as item.timer:
                return await item.answer
        except TimeoutError as error:
            raise too_late(DEADLINE if item.taken else item.ends_with()) from error

    @property
    def waiting(self) -> int:
        """Requests that wait for a call."""
        return len(self._queue)

    async def idle(self) -> None:
        """Wait until nothing waits and no call runs."""
        while busy := [*self._calls, *([self._task] if self._task else [])]:
            await asyncio.wait(busy)

    def close(self) -> None:
        """Answer what waits with an error and take no more; a call that runs goes on."""
        self._closed = True
        self._queue.close(_unloaded())

    async def _work(self) -> None:
        """Make calls until nothing waits."""
        try:
            while len(self._queue):
                while not self._free:
                    await asyncio.wait(self._calls, return_when=asyncio.FIRST_COMPLETED)
                await self._gather()
                batch = self._queue.take(self._settings.max_rows)
                if batch and self._alone:
                    await self._call_or_refuse(batch, self._free[0])
                elif batch:
                    self._call_beside(batch, self._free.pop())
        except Exception as error:
            # A defect here may not leave anybody waiting for ever.
            self._queue.close(error)
        finally:
            self._task = None

    async def _gather(self) -> None:
        """Let requests come in, as long as it pays.

        A request that is alone waits for two turns of the loop. Where others come beside it,
        as many as the last call had are waited for, or until none comes for a while.
        """
        settings = self._settings
        if not settings.max_rows:
            await asyncio.sleep(0)  # others may go on between two calls
            return
        start = seen = time.monotonic()
        patience_s = QUIET_SECONDS if self._crowd > 1 or self._beside > 0.5 else 0.0
        turns, full = 0, self._full()
        while not full and (now := time.monotonic()) - start < GATHER_SECONDS:
            complete = len(self._queue) >= self._crowd or now - seen >= patience_s
            if turns >= QUIET_TURNS and complete:
                break
            self._arrived.clear()
            await asyncio.sleep(0)
            if self._arrived.is_set():
                turns, seen, full = 0, time.monotonic(), self._full()
            else:
                turns += 1
        if settings.delay_s:
            await self._delay(settings.delay_s)

    async def _delay(self, delay_s: float) -> None:
        """Wait until the oldest request has waited long enough, or a call is worth making."""
        oldest = min((item.arrived_ns for item in self._queue), default=None)
        if oldest is None:
            return
        end = oldest * 1e-9 + delay_s
        while not self._full() and (left := end - time.monotonic()) > 0 and len(self._queue):
            self._arrived.clear()
            if left < COARSE_SECONDS:
                await asyncio.sleep(0)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(left - COARSE_SECONDS):
                    await self._arrived.wait()

    def _full(self) -> bool:
        """Whether waiting longer brings nothing."""
        rows = self._queue.rows()
        wanted = self._settings.preferred[-1:] or (self._settings.max_rows,)
        return rows >= min(wanted[0], self._settings.max_rows)

    def _call_beside(self, batch: list[Waiting], lane: Lane) -> None:
        """Start a call and go on; its lane is free again at its end."""

        async def call() -> None:
            try:
                await self._call_or_refuse(batch, lane)
            finally:
                self._free.append(lane)

        task = asyncio.create_task(call())
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _call_or_refuse(self, batch: list[Waiting], lane: Lane) -> None:
        """A defect here, or memory that is used up, may not leave anybody waiting for ever."""
        try:
            await self._call(batch, lane)
        except Exception as error:
            _refuse(batch, error)

    async def _call(self, batch: list[Waiting], lane: Lane) -> None:
        begun = time.monotonic_ns()
        names = list(dict.fromkeys(name for item in batch for name in item.outputs))
        arrays = joined([item.arrays for item in batch])
        size = sum(array.size for array in arrays.values())
        ready = time.monotonic_ns()
        try:
            answers, infer_ns = await lane.worker.run(
                lambda: _timed(lane.run, arrays, names), size, None
            )
            done = time.monotonic_ns()
            parts = [answers] if len(batch) == 1 else parted(answers, [i.rows for i in batch])
        except Exception as error:
            await self._failed(batch, error, lane)
            return
        answered = []
        for item, part in zip(batch, parts, strict=True):
            if not item.answer.done():
                item.answer.set_result({name: part[name] for name in item.outputs})
                answered.append(begun - item.arrived_ns)
        self._crowd, self._answered_ns = len(batch), time.monotonic_ns()
        times = CallTimes(
            rows=sum(item.rows for item in batch),
            queue_ns=answered,
            input_ns=ready - begun,
            infer_ns=infer_ns,
            output_ns=time.monotonic_ns() - done,
        )
        self.statistics.called(times)
        for item in batch:
            if item.times is not None:
                item.times.queue_ns, item.times.call = begun - item.arrived_ns, times

    async def _failed(self, batch: list[Waiting], error: Exception, lane: Lane) -> None:
        """A call that fails is its request's own fault only where it was alone in it."""
        if len(batch) > 1 and isinstance(error, TwinportError):
            for item in batch:
                if not item.answer.done():
                    await self._call([item], lane)
            return
        _refuse(batch, error)


def _refuse(batch: list[Waiting], error: Exception) -> None:
    for item in batch:
        if not item.answer.done():
            item.answer.set_exception(error)


def _timed(run: Run, arrays: Arrays, names: Sequence[str]) -> tuple[dict[str, Array], int]:
    """What a call gives, and its nanoseconds where it runs, without the way there and back."""
    start = time.monotonic_ns()
    answers = run(arrays, names)
    return answers, time.monotonic_ns() - start


def _reason(error: BaseException) -> Failure:
    if isinstance(error, asyncio.CancelledError):
        return Failure.CANCELED
    if isinstance(error, (ResourceExhausted, DeadlineExceeded, Unavailable)):
        return Failure.REJECTED
    return Failure.BACKEND if isinstance(error, TwinportError) else Failure.OTHER


def _unloaded() -> Unavailable:
    return Unavailable("the model is being unloaded; ask again when it is ready")
