"""Run a model's calls one after the other without holding up the event loop.

A call expected to be short runs at once on the loop, because handing it to a thread and
back costs more than it takes; any other runs in the model's own thread. What a call takes
is learned from the calls before, for each power of two of the size of their inputs: a part
of it is the same for all sizes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from runtime.cores import roam
from runtime.errors import DeadlineExceeded
from runtime.yielding import compute_here

INLINE_LIMIT_S = 700e-6
"""A call expected to take less runs on the event loop.

What a thread costs is not the way there but the interpreter's lock, which the loop and the
threads of the transport want too; only calls that are long enough make up for it by
running beside them.
"""
_NEWEST = 0.2
"""Weight of the newest call in what the next one is expected to take."""
_DOUBTED = 0.02
"""The same, where it took longer than expected and less than this:"""
_CERTAIN_S = 10 * INLINE_LIMIT_S

_DEADLINE = "the deadline of the request"

T = TypeVar("T")


class Worker:
    """One thread, and what it has learned of the duration of its calls."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name, initializer=_begin)
        self._pending: set[Future[Any]] = set()
        self._seconds: dict[int, float] = {}
        """Of calls by the bits of their size."""

    @property
    def busy(self) -> bool:
        """Whether a call runs in the thread or waits for it, wanted by somebody or not."""
        return bool(self._pending)

    def runs_inline(self, size: int) -> bool:
        """Whether a call of this size would run on the event loop now."""
        return not self._pending and self._expected_s(size) < INLINE_LIMIT_S

    def start(self, call: Callable[[], T], size: int, ended: Callable[[Future[T]], None]) -> None:
        """Run one call in the thread, after all that wait there already.

        Args:
            call: What to run.
            size: How much it has to do, in elements of its inputs.
            ended: Told of its end, on the event loop that runs now.
        """
        loop = asyncio.get_running_loop()
        future = self._pool.submit(self.timed, call, size)
        self._pending.add(future)

        def tell(done: Future[T]) -> None:
            self._pending.discard(done)
            # A loop that is closed has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(ended, done)

        future.add_done_callback(tell)

    def close(self) -> None:
        """Take no more calls and drop those that wait; one that runs goes on to its end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def timed(self, call: Callable[[], T], size: int) -> T:
        """Run one call here, and learn how long it takes."""
        start = time.perf_counter()
        result = call()
        measured = time.perf_counter() - start
        bits = size.bit_length()
        known = self._seconds.get(bits, measured)
        # Most of what makes a call a little slower is a wait for a lock or a core.
        doubted = known < measured < _CERTAIN_S
        self._seconds[bits] = known + (_DOUBTED if doubted else _NEWEST) * (measured - known)
        return result

    def _expected_s(self, size: int) -> float:
        """Seconds of a call; of a size not seen yet, the most that the nearest one allows."""
        bits = size.bit_length()
        known = self._seconds.get(bits)
        if known is not None:
            return known
        if not self._seconds:
            return math.inf
        nearest = min(self._seconds, key=lambda seen: abs(seen - bits))
        return self._seconds[nearest] * 2.0 ** max(0, bits - nearest)


def _begin() -> None:
    roam()
    compute_here()


def check_deadline(deadline: float | None) -> None:
    """Refuse to begin what is too late already.

    Raises:
        DeadlineExceeded: The time is over.
    """
    if deadline is not None and time.monotonic() >= deadline:
        raise too_late(_DEADLINE)


def too_late(what: str) -> DeadlineExceeded:
    """The error of a request that waited too long; ``what`` of it is over."""
    return DeadlineExceeded(f"{what} was over before the answer was there")
