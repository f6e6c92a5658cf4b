"""Which core a thread runs on.

Two threads that hand the interpreter's lock to each other all the time gain nothing from two
cores; where each wakes the other on another core, that costs more than what they do. So they
share one, and move on where others want it. A thread starts where the one that starts it
runs: every thread of ours that may be started by one of the two begins with ``roam``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

LOOK_SECONDS = 1.0
"""How often it is looked whether the core is free enough."""
MOST_WAITING = 0.3
"""Share of the time that the threads may be kept waiting for their core."""

_can_choose = hasattr(os, "sched_setaffinity")
_allowed = frozenset(os.sched_getaffinity(0)) if _can_choose else frozenset[int]()


def roam() -> None:
    """Let this thread run wherever the process may, whatever the thread does that started it."""
    if _can_choose and len(_allowed) > 1:
        with suppress(OSError):
            os.sched_setaffinity(0, _allowed)


class SharedCore:
    """Threads of this process that stay together on one core."""

    def __init__(self, threads: Sequence[int], cores: Iterable[int] = _allowed) -> None:
        """Bring them together; with only one core, or where the system has no choice, do nothing.

        Args:
            threads: Their native ids.
            cores: Those to choose from.
        """
        self._threads = tuple(threads)
        self._cores = sorted(cores)
        # Servers that share a machine begin on different cores.
        self._at = os.getpid() % max(1, len(self._cores))
        self._waited_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        if len(self._cores) > 1:
            self._settle()

    @property
    def core(self) -> int | None:
        """Where they are; none where they run anywhere."""
        return self._cores[self._at] if len(self._cores) > 1 else None

    def watch(self) -> None:
        """Move on whenever others want the core; on the running event loop."""
        if len(self._cores) > 1:
            self._waited_s = self._waited()
            self._look_later()

    def close(self) -> None:
        """Move no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self, seconds: float = LOOK_SECONDS) -> None:
        """Move on where the threads were kept waiting too long in the last ``seconds``."""
        waited_s, self._waited_s = self._waited_s, self._waited()
        if self._waited_s - waited_s > MOST_WAITING * seconds:
            self._at = (self._at + 1) % len(self._cores)
            self._settle()

    def _look_later(self) -> None:
        def look() -> None:
            self.look()
            self._look_later()

        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, look)

    def _settle(self) -> None:
        for thread in self._threads:
            # One may have ended, and a container may forbid it; then they run anywhere.
            with suppress(OSError):
                os.sched_setaffinity(thread, {self._cores[self._at]})

    def _waited(self) -> float:
        """Seconds that the busiest of them was ready to run and did not, so far."""
        return max((_waited(thread) for thread in self._threads), default=0.0)


def _waited(thread: int) -> float:
    try:
        # Nanoseconds on a core, nanoseconds waiting for one, slices (Linux, sched-stats).
        fields = Path(f"/proc/self/task/{thread}/schedstat").read_text("ascii").split()
        return int(fields[1]) * 1e-9
    except (OSError, IndexError, ValueError):
        return 0.0


def threads_named(name: str) -> set[int]:
    """Native ids of the threads of this process that have a name; empty where nobody says."""
    found = set()
    with suppress(OSError):
        for entry in os.listdir("/proc/self/task"):
            with suppress(OSError):
                if Path(f"/proc/self/task/{entry}/comm").read_text("utf-8").strip() == name:
                    found.add(int(entry))
    return found
