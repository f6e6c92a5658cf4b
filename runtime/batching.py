"""Join what waits for a model into one call.

Nothing is to be set: whatever waits when the backend is free goes together, and a request
that is alone goes at once. An event loop hands requests over one at a time, so before a
call the loop is let run until no more of them come in. All of it is callbacks of the loop:
a task for each call costs more than a small model does.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from runtime.batch_call import Computed, Lane, compute
from runtime.batch_rows import Arrays, Shapes, parted
from runtime.batch_settings import BatchSettings
from runtime.errors import TwinportError, Unavailable
from runtime.experts.feed import LoadFeed
from runtime.queueing import QueueSettings, RequestQueue, Waiting
from runtime.statistics import CallTimes, Failure, Statistics
from runtime.tensors import Array
from runtime.worker import check_deadline

GATHER_SECONDS = 3e-3
"""The most that a first request waits while others keep coming in."""
OVERLAP_NS = 100_000
"""A request that comes sooner after an answer was on its way before: no client is that fast."""
_NEWEST = 0.2
"""Weight of the newest request in whether requests come side by side."""
_CROWDED = 0.3
"""Share of requests beside others above which others are waited for."""
_MOST_NOTED = 64
COARSE_SECONDS = 1e-3
"""What a timer of the event loop can tell apart; shorter delays are spent in turns."""


class Batcher:
    """The queue of one model and what empties it; the lane that is free goes next."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        settings: BatchSettings,
        statistics: Statistics,
        loads: LoadFeed | None = None,
    ) -> None:
        """Join requests.

        Args:
            lanes: What runs them, one or more.
            settings: How requests are joined.
            statistics: Where calls and failures are counted.
            loads: Where the load of experts is counted, of a model that gives it.
        """
        self._statistics = statistics
        self._loads = loads
        self._noted: list[CallTimes] = []
        """Calls that are not counted yet; many at once cost a fraction of each by itself."""
        self._lanes = tuple(lanes)
        self._settings = settings
        self._queue = RequestQueue(settings.queue)
        # Whoever waits in a thread is in the queue no more, and its rules do not hold there; of
        # several threads another may be free first; which preferred size goes, time decides.
        self._may_hand_ahead = (
            len(lanes) == 1 and settings.queue == QueueSettings() and not settings.preferred
        )
        self._again: deque[Waiting] = deque()
        """Those of a call that failed, each to be computed alone."""
        self._running = 0
        self._due: asyncio.Handle | None = None
        """The next turn, where one is to come."""
        self._patient = False
        """Whether that comes when a delay is over, and may come sooner."""
        self._leaving = False
        """Whether nothing more is to come that could join what waits."""
        self._arrived = False
        self._beside = 0.0
        """Share of the newest requests that came beside others."""
        self._answered_ns = 0
        self._quiet = 0
        self._since = 0.0
        """When the requests that wait began to come in; 0 where none waits to be joined."""
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[asyncio.Future[None]] = []

    async def submit(
        self,
        arrays: Arrays,
        outputs: Sequence[str],
        deadline: float | None = None,
        *,
        priority: int = 0,
        timeout_s: float = 0.0,
        shapes: Shapes | None = None,
        finish: Callable[[dict[str, Array]], Any] | None = None,
    ) -> Any:
        """Wait for the answer to one request.

        Args:
            arrays: Every input, in the order of the model's inputs, checked.
            outputs: The outputs wanted.
            deadline: On the clock of ``time.monotonic``.
            priority: Its level; 0 takes the default.
            timeout_s: The longest that it may wait in the queue; 0 is no limit of its own.
            shapes: Of the inputs without axis 0, where they are known.
            finish: Makes of the outputs what is returned. It runs for all requests of a call
                one after the other, which is cheaper than by each of them later.

        Returns:
            The outputs wanted by name, of this request's rows alone, which nobody may write
            to; or what ``finish`` makes of them.

        Raises:
            DeadlineExceeded: It waited too long; its call is not made.
            ResourceExhausted: Too many wait already.
            Unavailable: The model is being unloaded.
        """
        start = time.monotonic_ns()
        item = None
        if self._loop is None:
            # Kept, because Python asks the system for its process id each time it looks.
            self._loop = asyncio.get_running_loop()
        try:
            check_deadline(deadline)
            self._check_open()
            item = self._queue.put(
                arrays, outputs, deadline, self._loop.create_future(),
                priority=priority, timeout_s=timeout_s, shapes=shapes,
            )  # fmt: skip
            item.finish = finish
            self._arrived = True
            beside = (
                len(self._queue) > 1
                or self._due is not None
                or item.arrived_ns - self._answered_ns < OVERLAP_NS
            )
            self._beside += _NEWEST * (beside - self._beside)
            if self._due is None or self._patient:
                if not beside and self._may_go_at_once(item):
                    self._begin_calls(at_once=True)
                # Others that come in this turn of the loop find it due, and are beside.
                self._turn_soon()
            return await item.answer
        except BaseException as error:
            self._statistics.failed(Failure.of(error), time.monotonic_ns() - start)
            raise
        finally:
            if item is not None and item.timer is not None:
                item.timer.cancel()

    @property
    def statistics(self) -> Statistics:
        """What was done so far."""
        self._count()
        return self._statistics

    @property
    def waiting(self) -> int:
        """Requests that wait for a call, and whose clients wait for them."""
        return sum(not item.answer.done() for item in self._queue)

    async def idle(self) -> None:
        """Wait until nothing waits and no call runs; from now on no request waits for others."""
        self._leaving = True
        while self._running or self._again or len(self._queue):
            self._turn_soon()  # those that nobody wants any more are let go
            done = asyncio.get_running_loop().create_future()
            self._idle.append(done)
            await done

    def close(self) -> None:
        """Answer what waits with an error and take no more; a call that runs goes on."""
        self._closed = True
        self._queue.close(_unloaded())

    def _check_open(self) -> None:
        if self._closed:
            raise _unloaded()

    def _turn_soon(self) -> None:
        if self._due is not None:
            self._due.cancel()
        loop = self._loop or asyncio.get_running_loop()
        self._patient = False
        self._due = loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Begin the calls that are to begin now."""
        self._due, self._patient = None, False
        try:
            self._begin_calls()
        except Exception as error:
            # A defect here may not leave anybody waiting for ever.
            self._queue.close(error)
        if self._idle and not (self._running or self._again or len(self._queue)):
            for done in self._idle:
                if not done.done():
                    done.set_result(None)
            self._idle.clear()

    def _may_go_at_once(self, item: Waiting) -> bool:
        """Whether a request that is alone is answered without a turn of the loop."""
        if self._beside > _CROWDED or self._settings.delay_s or self._again:
            return False
        lane = self._next_lane()
        size = sum([array.size for array in item.arrays.values()])
        return lane is not None and lane.worker.runs_inline(size)

    def _begin_calls(self, *, at_once: bool = False) -> None:
        while (lane := self._next_lane()) is not None:
            if not (self._again or at_once) and self._waits():
                return
            batch = [self._again.popleft()] if self._again else self._taken()
            if not batch:
                return
            size = sum([array.size for item in batch for array in item.arrays.values()])
            if lane.worker.runs_inline(size):
                self._call_here(batch, lane, size)
                if self._again or len(self._queue):
                    # What has come meanwhile goes together, after the answers have left.
                    self._turn_soon()
                return
            self._call_in_thread(batch, lane, size)

    def _next_lane(self) -> Lane | None:
        """Where the next call goes; none where there is none to make, or no room for it."""
        if not self._again and not len(self._queue):
            return None
        for lane in self._lanes:
            if not lane.calls:
                return lane
        if self._may_hand_ahead and self._full():
            # It cannot grow any more; the thread finds it when it is through with another.
            (lane,) = self._lanes
            return lane if lane.calls == 1 else None
        return None

    def _waits(self) -> bool:
        """Whether to let the loop run first, or a delay pass; the next turn is due then."""
        settings = self._settings
        if settings.delay_s:
            # What nobody wants any more ends the delay of others neither by its rows nor its age.
            self._queue.drop_dead()
        if not settings.max_rows or self._full():
            self._since = 0.0
            return False
        now = time.monotonic()
        if self._arrived:
            self._arrived, self._quiet = False, 0
            self._since = self._since or now
        else:
            self._quiet += 1
        turns = settings.quiet_turns if self._beside > _CROWDED else 1
        if self._quiet < turns and now - self._since < GATHER_SECONDS:
            self._turn_soon()
            return True
        waits = bool(settings.delay_s) and not self._leaving
        if waits and not self._preferred_rows() and self._delayed(now):
            return True
        self._since = 0.0
        return False

    def _delayed(self, now: float) -> bool:
        """Whether the oldest request has not waited for long enough."""
        left = self._delay_left(now)
        if left <= 0:
            return False
        if left < COARSE_SECONDS:
            self._turn_soon()
        else:
            loop = asyncio.get_running_loop()
            self._patient = True
            self._due = loop.call_later(left - COARSE_SECONDS, self._turn)
        return True

    def _delay_left(self, now: float) -> float:
        """Seconds that the oldest request is to wait yet; none where nothing waits."""
        oldest = min((item.arrived_ns for item in self._queue), default=None)
        return 0.0 if oldest is None else oldest * 1e-9 + self._settings.delay_s - now

    def _preferred_rows(self) -> int:
        sizes = self._settings.preferred
        return self._queue.preferred_rows(sizes) if sizes else 0

    def _full(self) -> bool:
        """Whether waiting longer brings nothing."""
        most = self._settings.max_rows
        wanted = min(self._settings.preferred[-1], most) if self._settings.preferred else most
        return self._queue.rows() >= wanted

    def _taken(self) -> list[Waiting]:
        settings = self._settings
        preferred = 0
        # As in Triton, what has waited for its delay goes with whatever fits.
        if settings.preferred and not (
            settings.delay_s and self._delay_left(time.monotonic()) <= 0
        ):
            preferred = self._preferred_rows()
        return self._queue.take(preferred or settings.max_rows)

    def _call_here(self, batch: list[Waiting], lane: Lane, size: int) -> None:
        begun = time.monotonic_ns()
        try:
            computed = lane.worker.timed(partial(compute, batch, lane.run, self._counts()), size)
            self._answer(batch, computed, begun)
        except Exception as error:
            self._failed(batch, error)

    def _call_in_thread(self, batch: list[Waiting], lane: Lane, size: int) -> None:
        begun: list[int] = []
        wanted: list[Waiting] = []
        counts = self._counts()

        def call() -> Computed | None:
            begun.append(time.monotonic_ns())
            # It may have waited for the thread for long, and nobody for some of it any more.
            wanted.extend([item for item in batch if not item.answer.done()])
            return compute(wanted, lane.run, counts) if wanted else None

        def ended(future: Future[Computed | None]) -> None:
            lane.calls -= 1
            self._running -= 1
            try:
                computed = future.result()
                if computed is not None:
                    self._answer(wanted, computed, begun[0])
            except Exception as error:
                self._failed(wanted or batch, error)
            self._turn_soon()

        lane.calls += 1
        self._running += 1
        lane.worker.start(call, size, ended)

    def _counts(self) -> bool:
        """Whether the load of experts of the next call is to be counted."""
        return self._loads is not None and self._loads.draws()

    def _answer(self, batch: list[Waiting], computed: Computed, begun: int) -> None:
        self._answered_ns = time.monotonic_ns()
        answers = computed.answers
        parts = [answers] if len(batch) == 1 else parted(answers, [i.rows for i in batch])
        names = list(answers)
        answered = []
        for item, part in zip(batch, parts, strict=True):
            if not item.answer.done():
                wanted = item.outputs
                item.give(part if wanted == names else {name: part[name] for name in wanted})
                answered.append(begun - item.arrived_ns)
        times = CallTimes(
            rows=sum([item.rows for item in batch]),
            queue_ns=answered,
            input_ns=computed.input_ns,
            infer_ns=computed.infer_ns,
            output_ns=time.monotonic_ns() - computed.done_ns,
        )
        self._noted.append(times)
        if len(self._noted) >= _MOST_NOTED:
            self._count()
        if computed.load is not None and self._loads is not None:
            load = computed.load
            # Requests that cannot be joined may have any axis 0.
            whole = len(batch) == 1
            self._loads.offer(load, [len(load)] if whole else [item.rows for item in batch])
        for item in batch:
            if item.times is not None:
                item.times.queue_ns, item.times.call = begun - item.arrived_ns, times

    def _count(self) -> None:
        noted, self._noted = self._noted, []
        for times in noted:
            self._statistics.called(times)

    def _failed(self, batch: list[Waiting], error: Exception) -> None:
        """A call that fails is its request's own fault only where it was alone in it."""
        if len(batch) > 1 and isinstance(error, TwinportError):
            self._again += [item for item in batch if not item.answer.done()]
            return
        for item in batch:
            if not item.answer.done():
                item.answer.set_exception(error)


def _unloaded() -> Unavailable:
    return Unavailable("the model is being unloaded; ask again when it is ready")
