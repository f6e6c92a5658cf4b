"""Count the load of answers beside the path of requests.

The event loop notes references to arrays; a thread counts them, many at a time. When it does
not keep up, notes are dropped and counted: nothing ever waits for it.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from runtime.cores import roam
from runtime.errors import InvalidInput
from runtime.experts.load import ExpertLoad, by_request
from runtime.experts.summary import ExpertsSummary
from runtime.tensors import Array

GATHER_SECONDS = 0.25
"""Between two looks of the thread, while something comes in."""
KEEP_SECONDS = 30.0
"""Between two files."""
MOST_BYTES = 64 * 2**20
"""Of the arrays that wait; where there are more the next ones are dropped."""
_CHUNK_BYTES = 4 * 2**20
"""Of the counts of requests that are added at a time."""
MOST_PAIRS_TOLD = 64
"""Of a layer: more than are shown, so that those of several processes can be added up."""

Note: TypeAlias = tuple[Array, Sequence[int]]
Keep: TypeAlias = Callable[[dict[str, Array]], None]

logger = logging.getLogger(__name__)


class LoadFeed:
    """The load of one model in this process, from its first version on until it is closed."""

    def __init__(self, load: ExpertLoad, share: float, keep: Keep, name: str) -> None:
        """Count from now on.

        Args:
            load: What is counted into; what it holds already was counted by others.
            share: Of the calls, above 0.
            keep: Writes down what ``ExpertLoad.to_arrays`` gives; called in the thread.
            name: Of the model, for the log.
        """
        self._load = load
        self._share = share
        self._keep = keep
        self._name = name
        self._before = load.requests, load.total.copy()
        self._notes: deque[Note] = deque()
        self._offered = self._taken = 0
        """Bytes; each side writes to its own alone."""
        self._dropped = self._refused = 0
        """Requests; likewise."""
        self._lock = threading.Lock()
        """Held by who counts."""
        self._some = threading.Event()
        self._ends = threading.Event()
        self._kept = load.requests
        self._thread: threading.Thread | None = None

    def draws(self) -> bool:
        """Whether the call at hand is to be counted; on the event loop."""
        return self._share >= 1 or random.random() < self._share

    def offer(self, load: Array, rows: Sequence[int]) -> None:
        """Note one call; on the event loop, never waits.

        Args:
            load: ``[batch, layers, experts]`` tokens; nobody writes to it any more.
            rows: Of each of its requests.
        """
        if self._offered - self._taken > MOST_BYTES:
            self._dropped += len(rows)
            return
        self._offered += load.nbytes
        self._notes.append((load, rows))
        if not self._some.is_set():
            self._some.set()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name=f"load of {self._name}", daemon=True
                )
                self._thread.start()

    def summary(self) -> ExpertsSummary:
        """What was counted, all that was noted before included.

        Off the event loop, in any thread: of a large model it takes tens of milliseconds.
        """
        with self._lock:
            self._settle()
            load, (requests, total) = self._load, self._before
            pairs = load.strongest_pairs(MOST_PAIRS_TOLD)
            return ExpertsSummary(
                share=self._share,
                requests=load.requests - requests,
                dropped=self._dropped + self._refused,
                window_requests=load.window_requests,
                tokens=_rows(load.total - total),
                window=_rows(load.window),
                decayed=_rows(load.decayed),
                remembered=load.requests,
                pairs=None if pairs is None else tuple(map(tuple, pairs)),
            )

    def close(self) -> None:
        """Count what was noted, and keep it; calling it twice is allowed."""
        self._ends.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._count_and_keep()

    def _work(self) -> None:
        roam()
        kept = time.monotonic()
        while not self._ends.is_set():
            left = kept + KEEP_SECONDS - time.monotonic()
            if self._some.wait(max(left, GATHER_SECONDS) if self._unkept else None):
                self._ends.wait(GATHER_SECONDS)
            try:
                with self._lock:
                    self._settle()
                if self._unkept and time.monotonic() - kept >= KEEP_SECONDS:
                    kept = time.monotonic()
                    self._count_and_keep()
            except Exception:
                # A defect here may not end the counting of what comes later.
                logger.exception("the load of %s could not be counted", self._name)

    @property
    def _unkept(self) -> bool:
        return self._load.requests != self._kept

    def _count_and_keep(self) -> None:
        with self._lock:
            self._settle()
            if not self._unkept:
                return
            self._kept = self._load.requests
            arrays = self._load.to_arrays()
        self._keep(arrays)

    def _settle(self) -> None:
        """Count what was noted; whoever calls holds the lock."""
        self._some.clear()
        # The event loop goes on noting; what it notes from here on may be left for later.
        left = len(self._notes)
        while left:
            loads: list[Array] = []
            rows: list[int] = []
            size = 0
            while left and size < _CHUNK_BYTES:
                load, its_rows = self._notes.popleft()
                left -= 1
                size += load.nbytes
                loads.append(load)
                rows += its_rows
            self._taken += size
            try:
                self._load.add(by_request(loads, rows))
            except InvalidInput as error:
                self._refused += len(rows)
                logger.warning("the load of %s is not counted: %s", self._name, error)


def _rows(counts: Array) -> tuple[tuple[Any, ...], ...]:
    return tuple(map(tuple, counts.tolist()))
