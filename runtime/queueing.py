"""What waits for a model: in which order it goes, how much may wait and for how long.

The rules are those of ``dynamic_batching`` in ``config.pbtxt`` (Triton's documentation of
the model configuration): priority levels, 1 the highest, each with a policy of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.batch_rows import Arrays, Shapes, rows_of, shapes_below
from runtime.errors import ResourceExhausted
from runtime.statistics import WATCHED, RequestTimes
from runtime.tensors import Array
from runtime.worker import too_late

DEADLINE = "the deadline of the request"
QUEUE_TIME = "the time that the request may wait in the queue"


@dataclass(frozen=True)
class QueuePolicy:
    """How one level of priority waits.

    Attributes:
        max_queue_size: Requests that may wait; 0 is no limit.
        timeout_s: How long one may wait before it is rejected or put last; 0 is no limit.
        delay_on_timeout: Put last what waited too long, instead of rejecting it.
        allow_timeout_override: Whether a request may bring a shorter time of its own.
    """

    max_queue_size: int = 0
    timeout_s: float = 0.0
    delay_on_timeout: bool = False
    allow_timeout_override: bool = False

    def wait_s(self, asked_s: float) -> float:
        """How long a request that asks for ``asked_s`` may wait; 0 is no limit."""
        if not self.allow_timeout_override or asked_s <= 0:
            return self.timeout_s
        return min(asked_s, self.timeout_s) if self.timeout_s else asked_s


@dataclass(frozen=True)
class QueueSettings:
    """All levels.

    Attributes:
        levels: 0 where there is no priority.
        default_level: Of a request that names none.
        policy: Of the levels that have none of their own.
        policies: By level.
    """

    levels: int = 0
    default_level: int = 0
    policy: QueuePolicy = QueuePolicy()
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)

    def level(self, asked: int) -> int:
        """The level of a request; one that does not exist is the default, as in Triton."""
        return asked if 1 <= asked <= self.levels else self.default_level

    def policy_of(self, level: int) -> QueuePolicy:
        """The policy of a level."""
        return self.policies.get(level, self.policy)


@dataclass(slots=True, eq=False)
class Waiting:
    """One request that waits.

    Attributes:
        arrays: Its inputs.
        outputs: The outputs that it wants.
        deadline: On the clock of ``time.monotonic``.
        arrived_ns: On ``time.monotonic_ns``, which is the same clock.
        patience: Until when it may wait in its level, on the deadline's clock; none is for ever.
        rejectable: Whether it is answered with an error then; else it is put last.
        answer: Done as soon as nobody has to compute it any more.
        rows: Size of axis 0.
        shapes: Of the inputs, without axis 0.
        times: Where to write what took how long, where somebody wants to know.
        taken: Whether it waits no longer.
        timer: What ends the wait for the answer.
        finish: Makes the answer of the outputs; none leaves them as they are.
    """

    arrays: Arrays
    outputs: Sequence[str]
    deadline: float | None
    arrived_ns: int
    patience: float | None
    rejectable: bool
    answer: asyncio.Future[Any]
    rows: int
    shapes: Shapes
    times: RequestTimes | None = None
    taken: bool = False
    timer: asyncio.TimerHandle | None = None
    finish: Callable[[dict[str, Array]], Any] | None = None

    def give(self, outputs: dict[str, Array]) -> None:
        """Answer it."""
        if self.finish is None:
            self.answer.set_result(outputs)
            return
        try:
            self.answer.set_result(self.finish(outputs))
        except Exception as error:
            self.answer.set_exception(error)

    def watch_time(self) -> None:
        """End the wait in time, where there is a limit to it."""
        ends = [end for end in (self.deadline, self._patience()) if end is not None]
        if ends:
            left = max(0.0, min(ends) - time.monotonic())
            self.timer = asyncio.get_running_loop().call_later(left, self._end)

    def take(self) -> None:
        """It is being computed: from now on its deadline alone counts."""
        hurried = self._patience() is not None
        self.taken = True
        if hurried and self.timer is not None:
            self.timer.cancel()
            self.timer = None
            self.watch_time()

    def _end(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(too_late(DEADLINE if self.taken else self._ends_with()))

    def _ends_with(self) -> str:
        """What is over first while it waits."""
        patience = self._patience()
        late = patience is not None and (self.deadline is None or patience < self.deadline)
        return QUEUE_TIME if late else DEADLINE

    def _patience(self) -> float | None:
        return self.patience if self.rejectable and not self.taken else None


class RequestQueue:
    """Everything that waits for one model, in the order in which it goes."""

    def __init__(self, settings: QueueSettings) -> None:
        self._settings = settings
        self._plain: deque[Waiting] | None = None
        """The one level there is, where there are no rules; most models have none."""
        self._levels: dict[int, deque[Waiting]] = {}
        if settings == QueueSettings():
            self._plain = self._levels.setdefault(settings.default_level, deque())
        self._delayed: dict[int, deque[Waiting]] = {}
        """By level: those that waited too long there, which go after the others of it."""
        self._joinable: int | None = 0
        """What ``rows`` gives; none where it is to be counted again."""

    def __len__(self) -> int:
        if self._plain is not None:
            return len(self._plain)
        return sum(map(len, (*self._levels.values(), *self._delayed.values())))

    def __iter__(self) -> Iterator[Waiting]:
        for level in sorted(self._levels):
            yield from self._levels[level]
            yield from self._delayed.get(level, ())

    def put(
        self,
        arrays: Arrays,
        outputs: Sequence[str],
        deadline: float | None,
        answer: asyncio.Future[Any],
        *,
        priority: int = 0,
        timeout_s: float = 0.0,
        shapes: Shapes | None = None,
    ) -> Waiting:
        """Let a request wait; ``shapes`` are its inputs' without axis 0, where they are known.

        Raises:
            ResourceExhausted: Its level is full.
        """
        now_ns = time.monotonic_ns()
        patience, rejectable, queue = None, True, self._plain
        if queue is None:
            level = self._settings.level(priority)
            policy = self._settings.policy_of(level)
            queue = self._room_in(level, policy.max_queue_size)
            wait_s = policy.wait_s(timeout_s)
            patience = now_ns * 1e-9 + wait_s if wait_s else None
            rejectable = not policy.delay_on_timeout
        waiting = Waiting(
            arrays, outputs, deadline, now_ns, patience, rejectable, answer, rows_of(arrays),
            shapes_below(arrays) if shapes is None else shapes, WATCHED.get(),
        )  # fmt: skip
        if deadline is not None or patience is not None:
            waiting.watch_time()
        if self._settings.levels or self._delayed:
            self._joinable = None
        elif self._joinable is not None and (not queue or queue[0].shapes == waiting.shapes):
            self._joinable += waiting.rows
        queue.append(waiting)
        return waiting

    def _room_in(self, level: int, most: int) -> deque[Waiting]:
        queue = self._levels.setdefault(level, deque())
        if most and self._length(level) >= most:
            self.drop_dead()
            if (length := self._length(level)) >= most:
                raise ResourceExhausted(
                    f"{length} requests wait already, which is all that max_queue_size "
                    "allows; send it later"
                )
        return queue

    def _length(self, level: int) -> int:
        return len(self._levels[level]) + len(self._delayed.get(level, ()))

    def drop_dead(self) -> None:
        """Let go of what nobody waits for any more, and reject what waited too long."""
        now = time.monotonic()
        for level, late in list(self._delayed.items()):
            kept = deque(item for item in late if not _expired(item, now))
            if len(kept) < len(late):
                self._joinable = None
                self._delayed[level] = kept
                if not kept:
                    del self._delayed[level]
        for level, queue in self._levels.items():
            staying = [item for item in queue if not self._ends(item, level, now)]
            if len(staying) < len(queue):
                self._joinable = None
                queue.clear()
                queue.extend(staying)

    def take(self, max_rows: int) -> list[Waiting]:
        """What goes now: the first request and all that fit into one call with it.

        Args:
            max_rows: Of one call; 0 takes the first request alone.
        """
        chosen = self._first_in_order(max_rows)
        if chosen is None:
            self.drop_dead()
            chosen = self._first_that_fit(max_rows)
            self._remove(chosen)
        for item in chosen:
            item.take()
        return chosen

    def _first_in_order(self, max_rows: int) -> list[Waiting] | None:
        """Those at the head of the one level there is, which nearly always all fit.

        None where one is late or of another shape, and where there are levels; then
        nothing was taken.
        """
        if self._settings.levels or self._delayed or len(self._levels) != 1:
            return None
        (queue,) = self._levels.values()
        now = time.monotonic()
        chosen: list[Waiting] = []
        rows = 0
        for item in queue:
            if item.answer.done() or _is_late(item, now):
                return None
            if chosen and item.shapes != chosen[0].shapes:
                return None
            if chosen and rows + item.rows > max_rows:
                break
            chosen.append(item)
            rows += item.rows
            if rows >= max_rows:
                break
        for _ in chosen:
            queue.popleft()
        self._joinable = None if queue else 0
        return chosen

    def _first_that_fit(self, max_rows: int) -> list[Waiting]:
        chosen: list[Waiting] = []
        rows = 0
        for item in self:
            if chosen and (not max_rows or item.shapes != chosen[0].shapes):
                continue
            if chosen and rows + item.rows > max_rows:
                # Nothing of a later arrival overtakes one that is only too large for the rest.
                break
            chosen.append(item)
            rows += item.rows
            if rows >= max_rows:
                break
        return chosen

    def rows(self) -> int:
        """Rows that could share a call with the first request."""
        if self._joinable is None:
            first = next(iter(self), None)
            self._joinable = (
                sum(item.rows for item in self if item.shapes == first.shapes) if first else 0
            )
        return self._joinable

    def preferred_rows(self, sizes: Sequence[int]) -> int:
        """Rows of the largest preferred call that the first requests make up; 0 for none.

        Args:
            sizes: Of calls, ascending. A call of such a size is what ``take`` gives for it.
        """
        self.drop_dead()
        best = rows = 0
        shapes: Shapes | None = None
        for item in self:
            if shapes is None:
                shapes = item.shapes
            elif item.shapes != shapes:
                continue
            rows += item.rows
            if rows in sizes:
                best = rows
            if rows >= sizes[-1]:
                break
        return best

    def close(self, error: Exception) -> None:
        """Answer everything that waits with ``error``."""
        for item in list(self):
            if not item.answer.done():
                item.answer.set_exception(error)
        for queue in self._levels.values():
            queue.clear()
        self._delayed.clear()
        self._joinable = 0

    def _ends(self, item: Waiting, level: int, now: float) -> bool:
        """Whether an item leaves its level now; one that is only late may be put last."""
        if _expired(item, now):
            return True
        if item.patience is None or now < item.patience:
            return False
        if item.rejectable:
            item.answer.set_exception(too_late(QUEUE_TIME))
        else:
            self._delayed.setdefault(level, deque()).append(item)
        return True

    def _remove(self, chosen: Sequence[Waiting]) -> None:
        gone = set(map(id, chosen))
        self._joinable = None
        for queue in (*self._levels.values(), *self._delayed.values()):
            while queue and id(queue[0]) in gone:
                gone.discard(id(queue.popleft()))
            if gone and any(id(item) in gone for item in queue):
                kept = [item for item in queue if id(item) not in gone]
                queue.clear()
                queue.extend(kept)
        self._delayed = {level: late for level, late in self._delayed.items() if late}


def _is_late(item: Waiting, now: float) -> bool:
    """Whether a time of it is over, whatever follows from that."""
    late = item.deadline is not None and now >= item.deadline
    return late or (item.patience is not None and now >= item.patience)


def _expired(item: Waiting, now: float) -> bool:
    """Whether nobody waits for it: given up, or past its deadline."""
    if item.answer.done():
        return True
    if item.deadline is None or now < item.deadline:
        return False
    item.answer.set_exception(too_late(DEADLINE))
    return True
