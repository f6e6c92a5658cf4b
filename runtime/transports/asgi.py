"""The service as an ASGI application that speaks gRPC over HTTP/2.

The way of a call with one message is what the speed of the server hangs on: one event of
the request is waited for, three of the answer are sent without waiting, and nothing is
made for a request that does not need it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import islice
from typing import Any, NamedTuple, cast

from runtime.errors import TwinportError
from runtime.observe.failures import OTHER
from runtime.queueing import DEADLINE
from runtime.servicer import Call, Servicer
from runtime.transports.answers import (
    BODY,
    OK,
    START,
    START_GZIP,
    Answers,
    Send,
    send_error,
    send_refusal,
)
from runtime.transports.base import check_answer, not_served
from runtime.transports.messages import (
    LOOK_SECONDS,
    Event,
    Gone,
    Messages,
    Receive,
    one_message,
    whole_message,
)
from runtime.transports.wire import (
    check_encoding,
    framed,
    framed_gzip,
    metadata_of,
    seconds_of,
)
from runtime.worker import too_late

LARGE = 2**18
"""Bytes of an answer from which it is sent in parts, as fast as the client takes them."""
LOOKED_AT = 64
"""Requests whose clients are looked after at one time while few of them leave."""

_GRPC = b"application/grpc"
_PLAIN = Call()


class Body(NamedTuple):
    """The body of a streaming request, and whether its answers are to be compressed."""

    receive: Receive
    encoding: bytes
    compress: bool


Headers = list[tuple[bytes, bytes]]


class Head(NamedTuple):
    """What the headers of a request say.

    Attributes:
        problem: The HTTP status and the text for what is no request of gRPC.
        encoding: How messages that are marked as compressed are.
        compress: Whether the answer is to be compressed.
        metadata: What the client sends along.
        timeout: ``grpc-timeout`` as it came.
        plain: Whether there is neither metadata nor timeout.
    """

    problem: tuple[int, str] | None = None
    encoding: bytes = b"identity"
    compress: bool = False
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout: bytes | None = None
    plain: bool = True

    def call(self) -> Call:
        """The same for the service; its deadline counts from now."""
        if self.timeout is None:
            return Call(None, self.metadata)
        return Call(time.monotonic() + seconds_of(self.timeout), self.metadata)


class GrpcApp:
    """Answers requests of ASGI (``http`` scopes) through a servicer."""

    def __init__(self, servicer: Servicer, max_message: int, *, compress: bool = False) -> None:
        """Answer nothing yet.

        Args:
            servicer: Who answers.
            max_message: Bytes of the longest message, either way.
            compress: Compress answers for every client that takes it; where not set, only
                those to clients that compress.
        """
        self._servicer = servicer
        self._unary = frozenset(servicer.unary_methods)
        self._streams = frozenset(servicer.stream_methods)
        self._limit = max_message
        self._large = min(LARGE, max_message)
        self._compress = compress
        self._waiting: dict[asyncio.Task[Any], tuple[Receive, float]] = {}
        self._looks: dict[asyncio.Task[Any], asyncio.Future[Event]] = {}
        self._streaming: set[asyncio.Task[Any]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._gone = 0
        """Clients that were found to have left since the last looks."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last: tuple[Headers, Head] = ([], Head())
        self._sending = 0

    @property
    def running(self) -> int:
        """Calls whose answers have not been handed over yet."""
        return len(self._waiting) + len(self._streaming) + self._sending

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request."""
        method = scope["path"]
        # Sending fails with an OSError, and a request is cancelled, where the client has left.
        try:
            try:
                head = self._head(scope["headers"], scope["http_version"])
                if head.problem:
                    await send_refusal(send, *head.problem)
                    return
                if head.encoding != b"identity":
                    check_encoding(head.encoding)
                if method in self._unary:
                    await self._one(method, head, receive, send)
                elif method in self._streams:
                    body = Body(receive, head.encoding, head.compress)
                    await self._stream(method, head.call(), body, send)
                else:
                    raise not_served(method)
            except TwinportError as error:
                self._note(method, error)
                await send_error(send, error)
        except (Gone, OSError, asyncio.CancelledError):
            return

    def _note(self, method: str, error: TwinportError) -> None:
        served = method in self._unary or method in self._streams
        self._servicer.failures.note_once(method if served else OTHER, error)

    def _head(self, headers: Headers, version: str) -> Head:
        """What the headers say; most requests have those of the one before."""
        if headers == self._last[0] and version == "2":
            return self._last[1]
        head = _head(headers, version, always=self._compress)
        if head.timeout is None and version == "2":
            self._last = headers, head
        return head

    async def _one(self, method: str, head: Head, receive: Receive, send: Send) -> None:
        """Answer a call with one message each way."""
        event = await receive()
        payload = whole_message(event)
        if payload is None or len(payload) > self._limit:
            payload = await one_message(receive, event, head.encoding, self._limit)
        # Kept, because Python asks the system for its process id each time it looks.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None, "a request runs as a task"
        self._waiting[task] = receive, time.monotonic() + LOOK_SECONDS
        if self._looking is None:
            self._looking = loop.create_task(self._look_after_clients())
        try:
            if head.plain:
                answer = await self._servicer.unary(method, payload, _PLAIN)
            else:
                answer = await self._in_time(method, payload, head.call())
        finally:
            del self._waiting[task]
        if head.compress or len(answer) >= self._large:
            check_answer(self._servicer.failures, method, payload, answer, self._limit)
            await self._send_large(send, answer, head.compress)
            return
        await send(START)
        await send({"type": BODY, "body": framed(answer)})
        await send(OK)

    async def _in_time(self, method: str, payload: bytes, call: Call) -> bytes:
        if call.deadline is None:
            return await self._servicer.unary(method, payload, call)
        try:
            async with asyncio.timeout(call.deadline - time.monotonic()):
                return await self._servicer.unary(method, payload, call)
        except TimeoutError as error:
            late = too_late(DEADLINE)
            late.noted = True  # by the service, which was cancelled
            raise late from error

    async def _send_large(self, send: Send, answer: bytes, compress: bool) -> None:
        body = framed_gzip(answer) if compress else framed(answer)
        await send(START_GZIP if compress else START)
        if len(body) > LARGE:
            await self._send_parts(send, body)
            body = b""
        await send({"type": BODY, "body": body})
        await send(OK)

    async def _send_parts(self, send: Send, body: bytes) -> None:
        self._sending += 1
        view = memoryview(body)
        try:
            for start in range(0, len(body), LARGE):
                part = bytes(view[start : start + LARGE])
                await send({"type": BODY, "body": part, "more_body": True})
        finally:
            self._sending -= 1

    async def _stream(self, method: str, call: Call, body: Body, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None, "a request runs as a task"
        self._streaming.add(task)
        messages = Messages(body.receive, body.encoding, self._limit, lambda: _cancel(task))
        pump = asyncio.create_task(messages.pump())
        out = Answers(send, self._limit, body.compress)
        begun = time.monotonic()
        try:
            error = await self._answers(method, messages, call, out) or messages.error
            if error is not None:
                self._servicer.failures.note_once(method, error, time.monotonic() - begun)
            await out.end(error)
        finally:
            pump.cancel()
            self._streaming.discard(task)

    async def _answers(
        self, method: str, messages: Messages, call: Call, out: Answers
    ) -> TwinportError | None:
        """Send what the service answers; the error that this ends with."""
        try:
            left = None if call.deadline is None else call.deadline - time.monotonic()
            async with asyncio.timeout(left):
                await self._send_answers(method, messages, call, out)
        except TimeoutError:
            return too_late(DEADLINE)
        except TwinportError as error:
            return error
        return None

    async def _send_answers(
        self, method: str, messages: Messages, call: Call, out: Answers
    ) -> None:
        stream = cast(AsyncGenerator[bytes, None], self._servicer.stream(method, messages, call))
        async with aclosing(stream) as answers:
            async for answer in answers:
                await out.send(answer)

    async def _look_after_clients(self) -> None:
        """Cancel requests whose clients have left; nothing else tells of it."""
        most = LOOKED_AT
        try:
            while self._waiting:
                await asyncio.sleep(LOOK_SECONDS)
                self._gone = 0
                looked = self._look_at(most)
                await asyncio.sleep(LOOK_SECONDS / 10)
                # Where most have left, as with a program that ended, so have the others.
                most = 2 * most if looked and 2 * self._gone >= looked else LOOKED_AT
        finally:
            self._looking = None

    def _look_at(self, most: int) -> int:
        """Look whether the clients of so many requests are still there; says of how many."""
        now = time.monotonic()
        looked = 0
        for task, (receive, due) in list(islice(self._waiting.items(), most)):
            if due <= now and task in self._waiting:
                self._look(task, receive)
                looked += 1
        return looked

    def _look(self, task: asyncio.Task[Any], receive: Receive) -> None:
        del self._waiting[task]  # it goes to the end of the line
        self._waiting[task] = receive, time.monotonic() + LOOK_SECONDS
        if task not in self._looks:
            # Nobody waits for it: there is no event until a client ends its body, or for ever.
            look = self._looks[task] = asyncio.ensure_future(receive())
            look.add_done_callback(lambda done: self._looked(task, done))

    def _looked(self, task: asyncio.Task[Any], look: asyncio.Future[Event]) -> None:
        del self._looks[task]
        if look.cancelled() or look.exception() is not None:
            return
        if look.result()["type"] == "http.disconnect" and task in self._waiting:
            self._gone += 1
            task.cancel()


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


def _head(headers: Headers, version: str, *, always: bool) -> Head:
    """Read the headers; ``always`` compresses answers for every client that takes it."""
    found = dict(headers)
    problem = _no_grpc(found, version)
    if problem:
        return Head(problem)
    encoding = found.get(b"grpc-encoding", b"identity")
    accepted = b"gzip" in found.get(b"grpc-accept-encoding", b"")
    metadata = metadata_of(headers)
    timeout = found.get(b"grpc-timeout")
    return Head(
        None, encoding, accepted and (always or encoding != b"identity"), metadata, timeout,
        timeout is None and not metadata,
    )  # fmt: skip


def _no_grpc(headers: dict[bytes, bytes], version: str) -> tuple[int, str] | None:
    """The HTTP status and the text for what is no request of gRPC."""
    kind = headers.get(b"content-type", b"")
    if kind != b"application/grpc" and not kind.startswith((_GRPC + b"+", _GRPC + b";")):
        return 415, "this is a gRPC server; wanted content-type application/grpc"
    if version[:1] == "1":
        return 505, f"gRPC needs HTTP/2; this came as HTTP/{version}"
    if headers.get(b"te") != b"trailers":
        return 400, "gRPC needs the header 'te: trailers', which a proxy in between may drop"
    return None
