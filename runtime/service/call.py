"""What comes with a request, and what all calls do with its bytes."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from google.protobuf.message import DecodeError, Message

from runtime.errors import InvalidInput, TwinportError
from runtime.worker import check_deadline, too_late

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """What comes with a request besides its bytes.

    Attributes:
        deadline: On the clock of ``time.monotonic``; none where the client set none.
        metadata: Names and values as they were sent.
    """

    deadline: float | None = None
    metadata: tuple[tuple[str, str | bytes], ...] = ()


Unary: TypeAlias = Callable[[bytes, Call], Awaitable[bytes]]
Stream: TypeAlias = Callable[[AsyncIterator[bytes], Call], AsyncGenerator[bytes, None]]


class Running:
    """What is worked on now; enter it for each request."""

    def __init__(self) -> None:
        self.count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> None:
        """Something begins."""
        self.count += 1
        self._idle.clear()

    def leave(self) -> None:
        """It has ended."""
        self.count -= 1
        if not self.count:
            self._idle.set()

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_error: object) -> None:
        self.leave()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs; False where something still does after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True


def parsed(kind: type[M], payload: bytes) -> M:
    """The message in ``payload``.

    Raises:
        InvalidInput: The bytes are no such message.
    """
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(
            f"the {len(payload)} bytes sent are no {kind.DESCRIPTOR.full_name}; "
            "wanted that message in protobuf's binary form"
        ) from error


async def in_time(work: Awaitable[T], call: Call) -> T:
    """Wait for ``work`` until the deadline; what it does goes on when the client gives up.

    Raises:
        DeadlineExceeded: The time was over first.
    """
    task = asyncio.ensure_future(work)
    # Else the failure of work that nobody waits for any more is a warning of asyncio's.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    check_deadline(call.deadline)
    left = None if call.deadline is None else call.deadline - time.monotonic()
    try:
        async with asyncio.timeout(left):
            return await asyncio.shield(task)
    except TimeoutError as error:
        raise too_late("the deadline of the request") from error


def unexpected(method: str, error: Exception) -> TwinportError:
    """What the client gets to know of a defect: a mark to find it in the log."""
    mark = secrets.token_hex(4)
    logger.error("%s failed unexpectedly (%s)", method, mark, exc_info=error)
    return TwinportError(f"internal error {mark}; the server's log has the details")
