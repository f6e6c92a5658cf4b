"""What is sent back to a client of gRPC, as events of ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from runtime.errors import TwinportError
from runtime.transports.base import details_of
from runtime.transports.messages import Event
from runtime.transports.wire import (
    ENCODINGS,
    UnknownEncoding,
    check_length,
    framed,
    framed_gzip,
    status_text,
)

Send = Callable[[Event], Awaitable[None]]

_TYPE = (b"content-type", b"application/grpc")
START: Event = {
    "type": "http.response.start", "status": 200, "headers": [_TYPE], "trailers": True,
}  # fmt: skip
START_GZIP: Event = {**START, "headers": [_TYPE, (b"grpc-encoding", b"gzip")]}
OK: Event = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
BODY = "http.response.body"
_END: Event = {"type": BODY, "body": b""}


class Answers:
    """The messages of one stream's answer."""

    def __init__(self, send: Send, limit: int, compress: bool) -> None:
        self._send = send
        self._limit = limit
        self._compress = compress
        self._started = False
        self._last: asyncio.Future[None] | None = None

    async def send(self, payload: bytes) -> None:
        """Send one message; the one after it waits until this has left."""
        check_length(len(payload), self._limit, "an answer")
        await self._sent()
        if not self._started:
            self._started = True
            await self._send(START_GZIP if self._compress else START)
        body = framed_gzip(payload) if self._compress else framed(payload)
        self._last = asyncio.ensure_future(
            self._send({"type": BODY, "body": body, "more_body": True})
        )
        self._last.add_done_callback(_seen)

    async def end(self, error: TwinportError | None) -> None:
        """Say how the call went."""
        await self._sent()
        if not self._started:
            if error is not None:
                await send_error(self._send, error)
                return
            await self._send(START)
        await self._send(_END)
        await self._send(OK if error is None else {**OK, "headers": _status(error)})

    async def _sent(self) -> None:
        if self._last is not None:
            await asyncio.shield(self._last)
            self._last = None


async def send_error(send: Send, error: TwinportError) -> None:
    """Answer by a status alone, which then travels as headers."""
    headers = [_TYPE, *_status(error)]
    if isinstance(error, UnknownEncoding):
        headers.append((b"grpc-accept-encoding", ENCODINGS))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send(_END)


async def send_refusal(send: Send, status: int, text: str) -> None:
    """Answer what is no request of gRPC by a status of HTTP and a line of text."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": BODY, "body": text.encode() + b"\n"})


def _status(error: TwinportError) -> list[tuple[bytes, bytes]]:
    return [
        (b"grpc-status", str(int(error.status)).encode()),
        (b"grpc-message", status_text(details_of(error))),
    ]


def _seen(sent: asyncio.Future[None]) -> None:
    """Keep the loop from complaining that a failure to send was not noticed."""
    if not sent.cancelled():
        sent.exception()
