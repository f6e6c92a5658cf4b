"""The events of grpcio's core, taken by the event loop itself.

``grpc.aio`` waits for events in a thread of its own and wakes the loop for each of them, which
costs several times what a small model does (docs/speed.md). Here the loop looks for events
while requests come, and waits for them while nothing is worked on. Only where it has something
else to wait for, a model that computes or nobody for a while, a thread waits for the next one.

This is the binding that ``grpc`` and ``grpc.aio`` are written over. It is not documented; grpcio
1.81 and 1.85 were tried, and a release that lacks a name of it is refused in one line.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from typing import Any

import grpc
from grpc._cython import cygrpc as _binding  # type: ignore[attr-defined]

from runtime.errors import BackendUnavailable

MOST = 256
"""Events taken at one time before others have their turn on the loop."""
BUSY_TURNS = 6
"""Turns of the loop without an event after which a thread waits, while requests are worked on:
a model that computes on the loop has begun by then."""
PATIENCE_SECONDS = 1e-3
"""The longest that the loop waits for an event, deaf to its timers and to other threads."""
AWAKE_SECONDS = 0.01
"""Time since the last event for which it waits itself, again and again."""
BREATH_SECONDS = 0.01
"""Before the thread goes on after a failure."""
_USED = (
    "Call.start_server_batch", "CompletionQueue.poll", "CompletionQueue.shutdown",
    "CompletionType.queue_shutdown", "CompletionType.queue_timeout",
    "ReceiveCloseOnServerOperation.cancelled", "ReceiveMessageOperation.message",
    "SendInitialMetadataOperation", "SendMessageOperation", "SendStatusFromServerOperation",
    "Server.add_http2_port", "Server.cancel_all_calls", "Server.destroy",
    "Server.register_completion_queue", "Server.request_call", "Server.shutdown", "Server.start",
    "SslPemKeyCertPair", "server_credentials_ssl",
)  # fmt: skip

logger = logging.getLogger(__name__)


def checked(binding: Any) -> Any:
    """The classes of grpcio's core, all of those that are used here.

    Raises:
        BackendUnavailable: This release of grpcio has others.
    """
    lacking = [name for name in _USED if not _has(binding, name)]
    if lacking:
        raise BackendUnavailable(
            f"grpcio {grpc.__version__} lacks {', '.join(lacking)}; install another release of "
            "grpcio, or use --transport envoy"
        )
    return binding


def _has(binding: Any, name: str) -> bool:
    try:
        attrgetter(name)(binding)
    except AttributeError:
        return False
    return True


core = checked(_binding)
_NONE, _END = core.CompletionType.queue_timeout, core.CompletionType.queue_shutdown


class EventPump:
    """Hands each event of a completion queue to its tag, on the event loop.

    Either the loop or the thread looks for events, never both: whoever is done says so.
    """

    def __init__(self, idle: Callable[[], bool]) -> None:
        """Make the queue; ``start`` begins to take events from it.

        Args:
            idle: Whether no request is worked on; asked on the loop.
        """
        self.queue = core.CompletionQueue()
        self._idle = idle
        self._loop: asyncio.AbstractEventLoop | None = None
        self._asked = threading.Semaphore(0)
        self._quiet = 0
        self._awake_until = 0.0
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Take events from now on, on the running loop."""
        loop = self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._wait, args=(loop,), name="grpcio-events", daemon=True).start()
        self._asked.release()

    async def close(self) -> None:
        """Take the events that are still to come, and end."""
        self.queue.shutdown()
        await self._ended.wait()
        self._asked.release()

    def _look(self) -> None:
        """Take what is there, and decide who looks next."""
        try:
            self._look_once()
        except Exception:
            # Else nobody would look any more, and the server be deaf.
            logger.exception("events of grpcio were not taken")
            assert self._loop is not None, "whoever looks has started"
            self._loop.call_soon(self._look)

    def _look_once(self) -> None:
        poll = self.queue.poll
        count = 0
        while count < MOST and (event := poll(0)).completion_type != _NONE:
            count += 1
            if not self._take(event):
                return
        assert self._loop is not None, "whoever looks has started"
        self._quiet = 0 if count else self._quiet + 1
        now = time.monotonic()
        if count:
            self._awake_until = now + AWAKE_SECONDS
        idle = self._idle()
        if not count and idle and now < self._awake_until:
            event = poll(time.time() + PATIENCE_SECONDS)
            if event.completion_type != _NONE:
                self._awake_until = now + AWAKE_SECONDS
                if not self._take(event):
                    return
            self._loop.call_soon(self._look)
        elif count or (not idle and self._quiet < BUSY_TURNS):
            self._loop.call_soon(self._look)
        else:
            self._asked.release()

    def _take(self, event: Any) -> bool:
        """Hand over one event; False where it is the last of all."""
        if event.completion_type == _END:
            self._ended.set()
            return False
        try:
            event.tag(event)
        except Exception:
            # A defect in one call may not end all others.
            logger.exception("an event of grpcio was not handled")
        return True

    def _woken(self, event: Any) -> None:
        if self._take(event):
            self._look()

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for one event each time that the loop asks."""
        while True:
            self._asked.acquire()
            if self._ended.is_set():
                return
            try:
                event = self.queue.poll()
            except Exception:
                logger.exception("an event of grpcio was not taken")
                time.sleep(BREATH_SECONDS)
                self._asked.release()
                continue
            # A loop that is closed has nobody left who waits.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._woken, event)
