"""The calls of a server of grpcio's core, each answered through a servicer.

A call is told of what happens to it by events (``grpcio_queue.py``): it was made, a message
has come, an answer has left, it is over. What it sends is a batch of operations.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any, cast

from runtime.errors import InvalidInput, ResourceExhausted, TwinportError, Unavailable
from runtime.observe.failures import OTHER
from runtime.servicer import Call, Servicer
from runtime.transports.base import check_answer, details_of, not_served
from runtime.transports.grpcio_queue import EventPump, core

AHEAD = 16
"""Calls that the core may announce before it is asked for more."""
_NEVER = 1e10
"""Seconds since 1970; a deadline after it is none."""
_OK = 0

# What can be asked of the core for a call; each object is good for one batch.
_start = core.SendInitialMetadataOperation
_send = core.SendMessageOperation
_status = core.SendStatusFromServerOperation
_receive = core.ReceiveMessageOperation
_close = core.ReceiveCloseOnServerOperation


def _nobody_waits(_event: Any) -> None:
    """The tag of the last batch of a call; ``_closed`` tells of its end."""


class Calls:
    """Takes the calls of a server, and knows which have not ended yet."""

    def __init__(self, servicer: Servicer, server: Any, pump: EventPump, max_message: int) -> None:
        """Take none yet.

        Args:
            servicer: Who answers.
            server: Of the core, its events in the queue of ``pump``.
            pump: Brings the events.
            max_message: Bytes of the longest message that the core takes.
        """
        self.servicer = servicer
        self.max_message = max_message
        self._server = server
        self._queue = pump.queue
        self._takes = True
        self.finished = False
        """Whether the core takes nothing any more; whoever gives it something ends the process."""
        self._open: set[_Rpc] = set()
        self._one_ended = asyncio.Event()
        kinds = ((_Unary, servicer.unary_methods), (_Stream, servicer.stream_methods))
        self._kinds: dict[bytes, tuple[type[_Rpc], str]] = {
            method.encode(): (kind, method) for kind, methods in kinds for method in methods
        }

    def take(self) -> None:
        """Answer calls from now on, on the running event loop."""
        for _ in range(AHEAD):
            self._take_one()

    def refuse(self) -> None:
        """Take none any more; to be said before the server is shut down."""
        self._takes = False

    def finish(self) -> None:
        """Send nothing any more; to be said before the queue of events is shut down."""
        self.finished = True

    async def all_left(self) -> None:
        """Wait for the calls that are worked on by now; others may come meanwhile."""
        left = set(self._open)
        while left := left & self._open:
            self._one_ended.clear()
            await self._one_ended.wait()

    def began(self, rpc: _Rpc) -> None:
        """A call is worked on from now on."""
        self._open.add(rpc)

    def ended(self, rpc: _Rpc) -> None:
        """The core is done with a call, its last bytes included."""
        self._open.discard(rpc)
        self._one_ended.set()

    def _take_one(self) -> None:
        self._server.request_call(self._queue, self._queue, self._announced)

    def _announced(self, event: Any) -> None:
        if not event.success or self.finished:
            return  # the server is shut down
        if self._takes:
            self._take_one()
        kind, method = self._kinds.get(event.call_details.method, (_Unknown, ""))
        kind(self, event, method).begin()


class _Rpc:
    """One call, from its announcement to its end."""

    _payload = b""

    def __init__(self, calls: Calls, announced: Any, method: str) -> None:
        self._calls = calls
        self._core = announced.call
        self._details = announced.call_details
        self._metadata = announced.invocation_metadata
        self._method = method
        self._task: asyncio.Task[bytes | None] | None = None
        self._over = False
        self._has_headers = False
        """Whether the answer has begun: its initial metadata is sent."""
        self._batch((_close(0),), self._closed)

    def begin(self) -> None:
        raise NotImplementedError

    def _answer_in_task(self) -> None:
        """Answer, where the call is not over yet."""
        if not self._over:
            self._calls.began(self)
            self._task = asyncio.get_running_loop().create_task(self._answered())

    async def _answered(self) -> bytes | None:
        """Answer, and end the call by how that went; what was given to the core last."""
        try:
            answer = await self._answer()
        except TwinportError as error:
            self._end(error)
        except asyncio.CancelledError:
            if not self._over:  # it was not the client who cancelled
                self._end(Unavailable("the server gave the call up; ask again"))
            raise
        else:
            self._end(answer=answer)
            return answer
        return None

    async def _answer(self) -> bytes | None:
        """What is still to be sent before the status."""
        raise NotImplementedError

    def _closed(self, event: Any) -> None:
        self._over = True
        self._calls.ended(self)
        task = self._task
        if task is None or not event.batch_operations[0].cancelled() or task.cancel():
            return
        if not task.cancelled() and task.exception() is None:
            self._note_unsent(task.result() or b"")

    def _call(self) -> Call:
        """What came with it, for the service."""
        deadline = self._details.deadline
        if deadline > _NEVER:
            return Call(None, tuple(self._metadata))
        return Call(time.monotonic() + deadline - time.time(), tuple(self._metadata))

    def _refuse(self, error: TwinportError, method: str) -> None:
        """End a call that the service gets not to see; noted unless the core was quicker."""

        def sent(event: Any) -> None:
            if event.success:
                self._calls.servicer.failures.note_once(method, error)

        self._end(error, sent=sent)

    def _note_unsent(self, answer: bytes) -> None:
        """Note a call that the core has ended, where an answer that is too long is the reason."""
        failures, limit = self._calls.servicer.failures, self._calls.max_message
        with suppress(ResourceExhausted):
            check_answer(failures, self._method, self._payload, answer, limit)

    def _end(
        self,
        error: TwinportError | None = None,
        answer: bytes | None = None,
        sent: Callable[[Any], None] = _nobody_waits,
    ) -> None:
        """Send the status, and before it the only answer, where there is one."""
        operations = [] if self._has_headers else [_start((), 0)]
        if answer is not None:
            operations.append(_send(answer, 0))
        if error is None:
            operations.append(_status((), _OK, b"", 0))
        else:
            operations.append(_status((), int(error.status), details_of(error).encode(), 0))
        self._batch(operations, sent)

    def _batch(self, operations: Iterable[Any], tag: Any) -> None:
        if not self._calls.finished:
            self._core.start_server_batch(tuple(operations), tag)


class _Unknown(_Rpc):
    """A call of a method that nobody has."""

    def begin(self) -> None:
        self._refuse(not_served(self._details.method.decode("utf-8", "replace")), OTHER)


class _Unary(_Rpc):
    """One message each way."""

    def begin(self) -> None:
        self._batch((_receive(0),), self._received)

    def _received(self, event: Any) -> None:
        # It may come after the end of the call, and after that of the server.
        payload = event.batch_operations[0].message()
        if payload is None:
            # Where the core has refused what was sent, nobody gets to see this.
            error = InvalidInput("the request ends without a message; this call takes one")
            self._refuse(error, self._method)
            return
        self._payload = payload
        self._answer_in_task()

    async def _answer(self) -> bytes:
        return await self._calls.servicer.unary(self._method, self._payload, self._call())


class _Stream(_Rpc):
    """Messages both ways; one message one way is a stream too, on the wire."""

    def begin(self) -> None:
        self._answer_in_task()

    async def _answer(self) -> None:
        stream = self._calls.servicer.stream(self._method, self._messages(), self._call())
        async with aclosing(cast(AsyncGenerator[bytes, None], stream)) as answers:
            async for answer in answers:
                start = [] if self._has_headers else [_start((), 0)]
                self._has_headers = True
                # The next one waits until the client has room for it.
                if not await self._sent([*start, _send(answer, 0)], answer):
                    return

    async def _sent(self, operations: Iterable[Any], answer: bytes) -> bool:
        success = False
        try:
            success = bool((await self._done(operations)).success)
        finally:
            # Where the core refuses it, the end of the call is often told before.
            if not success:
                self._note_unsent(answer)
        return success

    async def _messages(self) -> AsyncIterator[bytes]:
        while True:
            event = await self._done([_receive(0)])
            payload = event.batch_operations[0].message()
            if payload is None:
                return
            yield payload

    async def _done(self, operations: Iterable[Any]) -> Any:
        """The event of a batch.

        Raises:
            CancelledError: The server takes nothing any more.
        """
        if self._calls.finished:
            raise asyncio.CancelledError
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def end(event: Any) -> None:
            if not done.done():
                done.set_result(event)

        self._batch(operations, end)
        return await done
