"""Which core a thread runs on.

Two threads that hand the interpreter's lock to each other all the time gain nothing from two
cores; where each wakes the other on another core, that costs more than what they do. So they
share one, and move on where others want it. There, one that is woken would interrupt the other
at once, for each event anew, and find the lock taken; so both are marked as batch work
(``SCHED_BATCH``), which waits until the core is free and then finds all events together. A
thread starts where and as the one that starts it runs: every thread of ours that may be started
by one of the two begins with ``roam``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

LOOK_SECONDS = 1.0
"""How often it is looked whether the core is free enough."""
MOST_WAITING = 0.3
"""Share of the time that the threads may be kept waiting for their core."""

can_choose = hasattr(os, "sched_setaffinity") and hasattr(os, "SCHED_BATCH")
"""Whether this system lets a thread choose."""
_allowed = frozenset(os.sched_getaffinity(0)) if can_choose else frozenset[int]()
begun_as = os.sched_getscheduler(0) if can_choose else 0
"""The policy of whoever started the program; one that is not the usual one was meant so."""


def roam() -> None:
    """Let this thread run wherever and as the process may, whatever the one does that starts it."""
    settle(0, begun_as, _allowed)


class SharedCore:
    """Threads of this process that stay together on one core."""

    def __init__(self, threads: Sequence[int], cores: Iterable[int] = _allowed) -> None:
        """Bring them together; where the system gives no choice, do nothing.

        Args:
            threads: Their native ids.
            cores: Those to choose from.
        """
        self._threads = tuple(threads)
        self._cores = sorted(cores)
        # Servers that share a machine begin on different cores.
        self._at = os.getpid() % max(1, len(self._cores))
        self._times: list[tuple[float, float]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._settle_all()

    @property
    def core(self) -> int | None:
        """Where they are; none where they run anywhere."""
        return self._cores[self._at] if len(self._cores) > 1 else None

    def watch(self) -> None:
        """Move on whenever others want the core; on the running event loop."""
        if len(self._cores) > 1:
            self._times = self._read()
            self._look_later()

    def close(self) -> None:
        """Move no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self, seconds: float = LOOK_SECONDS) -> None:
        """Move on where the threads were kept waiting too long in the last ``seconds``."""
        before, self._times = self._times or self._read(), self._read()
        spent = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(before, self._times, strict=True)]
        ran_s = sum(ran for ran, _ in spent)
        # While another of them runs, a thread waits for no fault of the core.
        lost_s = max((waited - (ran_s - ran) for ran, waited in spent), default=0.0)
        if lost_s > MOST_WAITING * seconds:
            self._at = (self._at + 1) % len(self._cores)
            self._settle_all()

    def _look_later(self) -> None:
        def look() -> None:
            self.look()
            self._look_later()

        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, look)

    def _settle_all(self) -> None:
        if not self._cores:
            return
        for thread in self._threads:
            settle(thread, _batch(), self._cores[self._at : self._at + 1])

    def _read(self) -> list[tuple[float, float]]:
        return [times(thread) for thread in self._threads]


def _batch() -> int:
    return os.SCHED_BATCH if can_choose and begun_as == os.SCHED_OTHER else begun_as


def settle(thread: int, policy: int, cores: Collection[int] = ()) -> None:
    """Say how a thread waits for a core and, where any are named, which ones it may have.

    It may have ended, and a container may forbid either; then it runs as before.
    """
    if not can_choose:
        return
    if cores:
        with suppress(OSError):
            os.sched_setaffinity(thread, cores)
    with suppress(OSError):
        if policy != os.sched_getscheduler(thread):
            os.sched_setscheduler(thread, policy, os.sched_param(0))


def times(thread: int) -> tuple[float, float]:
    """Seconds that a thread ran, and was ready to run and did not, so far."""
    try:
        # Nanoseconds on a core, nanoseconds waiting for one, slices (Linux, sched-stats).
        fields = Path(f"/proc/self/task/{thread}/schedstat").read_text("ascii").split()
        return int(fields[0]) * 1e-9, int(fields[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0, 0.0


def threads_named(name: str) -> set[int]:
    """Native ids of the threads of this process that have a name; empty where nobody says."""
    found = set()
    with suppress(OSError):
        for entry in os.listdir("/proc/self/task"):
            with suppress(OSError):
                if Path(f"/proc/self/task/{entry}/comm").read_text("utf-8").strip() == name:
                    found.add(int(entry))
    return found
