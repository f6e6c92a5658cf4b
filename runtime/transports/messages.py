"""The messages in the body of a request, out of the events of ASGI."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from runtime.errors import InvalidInput, TwinportError
from runtime.transports.wire import PREFIX, check_length, unpacked

AHEAD = 16
"""Messages that are read before the service asks for them."""
AHEAD_BYTES = 2**20
"""Bytes of such messages after which no more are read ahead."""
LOOK_SECONDS = 0.1
"""How often it is looked whether the client of a finished request body is still there."""

Event = dict[str, Any]
Receive = Callable[[], Awaitable[Event]]


class Gone(Exception):
    """The client has left; nobody hears an answer."""


def whole_message(event: Event) -> bytes | None:
    """The message of a call that has one, where the first event brings it whole, as most do.

    None where more is to come, where it is compressed, and where it is not what it must be.
    """
    body: bytes = event.get("body", b"")
    if len(body) < PREFIX or body[0] or len(body) != PREFIX + int.from_bytes(body[1:PREFIX], "big"):
        return None
    return body[PREFIX:]


async def one_message(receive: Receive, event: Event, encoding: bytes, limit: int) -> bytes:
    """The message of a call that has one.

    Args:
        receive: Gives the events of the request.
        event: The first of them.
        encoding: How a message that is marked as compressed is.
        limit: Bytes of the longest message taken.

    Raises:
        Gone: The client left before its end.
        InvalidInput: There is none, or more than one.
        ResourceExhausted: It is longer than ``limit`` bytes.
    """
    body = await _gathered(receive, event, limit)
    return unpacked(body[PREFIX:], encoding, limit) if body[0] else body[PREFIX:]


async def _gathered(receive: Receive, event: Event, limit: int) -> bytes:
    parts: list[bytes] = []
    size, wanted = 0, PREFIX
    while True:
        if _is_end(event):
            raise Gone
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if wanted == PREFIX and size >= PREFIX:
            parts = [b"".join(parts)]
            length = int.from_bytes(parts[0][1:PREFIX], "big")
            check_length(length, limit)
            wanted = PREFIX + length
        if size >= wanted > PREFIX or (wanted == size == PREFIX and parts[0][1:] == b"\0\0\0\0"):
            break
        if not event.get("more_body"):
            raise InvalidInput(
                f"the request ends after {size} bytes; wanted one whole message with its prefix"
            )
        event = await receive()
    if size > wanted:
        raise InvalidInput("the request holds more than one message; this call takes one")
    return b"".join(parts)


class Messages:
    """The messages of a stream, read a little ahead, so that a client that leaves is noticed."""

    def __init__(
        self, receive: Receive, encoding: bytes, limit: int, gone: Callable[[], None]
    ) -> None:
        """Read nothing yet.

        Args:
            receive: Gives the events of the request.
            encoding: How messages that are marked as compressed are.
            limit: Bytes of the longest message taken.
            gone: Called once where the client leaves.
        """
        self.error: TwinportError | None = None
        self._receive = receive
        self._encoding = encoding
        self._limit = limit
        self._gone = gone
        self._read: deque[bytes] = deque()
        self._ahead = 0
        self._ended = False
        self._more = asyncio.Event()
        self._room = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[bytes]:
        """The messages, each once."""
        return self

    async def __anext__(self) -> bytes:
        """The next message.

        Raises:
            TwinportError: What comes is no message.
        """
        while not self._read:
            if self.error is not None:
                raise self.error
            if self._ended:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        payload = self._read.popleft()
        self._ahead -= len(payload)
        self._room.set()
        return payload

    async def pump(self) -> None:
        """Read until the body ends, then watch the client until this is cancelled."""
        left = False
        try:
            left = await self._pump()
        except TwinportError as error:
            self.error = error
        self._ended = True
        self._more.set()
        while not left:
            await asyncio.sleep(LOOK_SECONDS)
            left = _is_end(await self._next_event())
        self._gone()

    async def _pump(self) -> bool:
        """Read to the end; True where the client left before."""
        rest = bytearray()
        while True:
            event = await self._next_event()
            if _is_end(event):
                return True
            rest += event.get("body", b"")
            while (payload := self._taken(rest)) is not None:
                self._read.append(payload)
                self._ahead += len(payload)
                self._more.set()
            if not event.get("more_body"):
                if rest:
                    raise InvalidInput(f"the stream ends within a message, {len(rest)} bytes of it")
                return False
            while len(self._read) >= AHEAD or self._ahead > AHEAD_BYTES:
                self._room.clear()
                await self._room.wait()

    def _taken(self, rest: bytearray) -> bytes | None:
        """The first whole message, taken out of what has come; none where it is not whole."""
        if len(rest) < PREFIX:
            return None
        length = int.from_bytes(rest[1:PREFIX], "big")
        check_length(length, self._limit)
        if len(rest) < PREFIX + length:
            return None
        payload = bytes(rest[PREFIX : PREFIX + length])
        packed = rest[0]
        del rest[: PREFIX + length]
        return unpacked(payload, self._encoding, self._limit) if packed else payload

    async def _next_event(self) -> Event:
        # The server of ASGI sets what it gave out, even where nobody waits for it any more.
        return await asyncio.shield(asyncio.ensure_future(self._receive()))


def _is_end(event: Event) -> bool:
    return bool(event["type"] == "http.disconnect")
