"""Let models compute where the threads of the transport would hold them up.

A call that takes long runs in a thread of its own, without the interpreter's lock, and leaves
the other cores to the transport. Where there are not enough of those, each piece of a message
that comes in interrupts it, and the same batch of requests takes longer to compute. So while
models compute much of the time, the threads of the transport are marked as batch work
(``SCHED_BATCH``): one that is woken waits for its turn and then finds all pieces together.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from pathlib import Path

from runtime import cores
from runtime.cores import settle, threads_named, times

LOOK_SECONDS = 0.25
"""How often it is looked whether models compute."""
MOSTLY = 0.3
"""Share of the time that they compute from which on the transport yields."""
SELDOM = 0.1
"""The same, below which it does so no more."""

_computing: set[int] = set()
"""Native ids of the threads that models compute in."""


def compute_here() -> None:
    """Say that models compute in this thread, until it ends."""
    _computing.add(threading.get_native_id())


class Yielding:
    """Looks how much models compute, and says how all other threads of the process wait."""

    def __init__(self, computing: set[int] = _computing) -> None:
        """Change nothing yet.

        Args:
            computing: Native ids of the threads that models compute in; they come and go.
                Those that have ended are taken out.
        """
        self._computing = computing
        self._ran_s: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.yields = False
        """Whether the others let them go first."""

    def watch(self) -> None:
        """Look again and again, on the running event loop."""
        # A policy that somebody gave to the program is left as it is.
        if cores.can_choose and cores.begun_as == os.SCHED_OTHER:
            self._look_later()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self, seconds: float) -> None:
        """Decide by what the models computed in the last ``seconds``."""
        before, self._ran_s = self._ran_s, {id: times(id)[0] for id in tuple(self._computing)}
        # One that was not there before may have computed long ago; one that has ended says 0.
        ran_s = sum(max(0.0, ran - before.get(id, ran)) for id, ran in self._ran_s.items())
        self._forget()
        share = ran_s / seconds
        if share > MOSTLY or (self.yields and share < SELDOM):
            self.yields = share > MOSTLY
            policy = os.SCHED_BATCH if self.yields else cores.begun_as
            # Anew each time: a library starts threads when it likes.
            for thread in _threads() - set(self._computing):
                settle(thread, policy)

    def _forget(self) -> None:
        """Let go of threads that have ended: their ids may come again."""
        known = set(self._computing)
        self._computing -= known - _everybody()

    def _look_later(self) -> None:
        def look() -> None:
            self.look(LOOK_SECONDS)
            self._look_later()

        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, look)


def _everybody() -> set[int]:
    """Native ids of all threads; empty where nobody says."""
    with suppress(OSError):
        return {int(entry) for entry in os.listdir("/proc/self/task")}
    return set()


def _threads() -> set[int]:
    """Native ids of all threads but those that a backend may have started to compute with."""
    own = {thread.native_id for thread in threading.enumerate()}
    # They have no name of their own: they are called as the program.
    with suppress(OSError):
        program = Path("/proc/self/comm").read_text("utf-8").strip()
        return _everybody() - (threads_named(program) - own)
    return set()
