"""The service behind grpcio: bytes in and out, deadlines, errors, the port."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from typing import Any, NoReturn, TypeAlias

import grpc

from runtime.errors import InvalidInput, TwinportError
from runtime.servicer import Call, Servicer
from runtime.settings import ServerSettings
from runtime.transports.base import address_text, details_of
from runtime.transports.sockets import check_free
from runtime.transports.tls import read_tls
from runtime.transports.unsent import connections_of, unsent_bytes_of
from runtime.yielding import Yielding

STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

LOOK_SECONDS = 0.004
"""How often it is looked whether the last bytes have arrived."""
QUIET_LOOKS = 5
"""Looks without bytes to send after which nothing is left with the library's threads."""
_PENDING = 2**20
"""Requests that have come and that no handler has begun."""

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class GrpcioTransport:
    """A server of grpcio on the running event loop."""

    def __init__(
        self, servicer: Servicer, settings: ServerSettings, *, shared_port: int = 0
    ) -> None:
        """Make the server; ``start`` binds.

        Args:
            servicer: Who answers.
            settings: Where and how.
            shared_port: A port that other processes of this server listen on too, in place
                of the one in the settings.
        """
        self._settings = settings
        self._shared_port = shared_port
        self._started = False
        compression = grpc.Compression.Gzip if settings.compression == "gzip" else None
        self._calls = Calls()
        self._yielding = Yielding()
        self._port = 0
        self._server = grpc.aio.server(
            options=channel_options(settings, shared=bool(shared_port)), compression=compression
        )
        self._server.add_generic_rpc_handlers((Handlers(servicer, self._calls),))

    async def start(self) -> str:
        """See ``Transport``."""
        self._port = self._bind()
        await self._server.start()
        self._started = True
        self._yielding.watch()
        return address_text(self._settings.host, self._port)

    async def stop(self, seconds: float) -> None:
        """See ``Transport``.

        The library ends calls that it has not handed over yet as cancelled, which clients take
        for their own doing. So each connection is closed for writing before that, once the
        answers are on it: its client takes what it still waits for as UNAVAILABLE.
        """
        if not self._started:
            return
        self._yielding.close()
        end = time.monotonic() + seconds
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._calls.all_left()
        # The library is done with a call when its last bytes are with the threads that write.
        await self._until_sent(end, QUIET_LOOKS)
        with ExitStack() as held:
            connections = [held.enter_context(each) for each in connections_of(self._port)]
            for connection in connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
            # At once, so that nobody who comes back at once is let in.
            await self._server.stop(None)
            # Closed while requests are unread, one would lose answers that are on the way.
            while time.monotonic() < end and any(map(unsent_bytes_of, connections)):
                await asyncio.sleep(LOOK_SECONDS)

    async def _until_sent(self, end: float, looks: int) -> None:
        """Wait until each connection was seen so often with nothing to send, or ``end`` is over."""
        with ExitStack() as held:
            left = {held.enter_context(each): looks for each in connections_of(self._port)}
            while left and time.monotonic() < end:
                for connection in list(left):
                    left[connection] -= not unsent_bytes_of(connection)
                    if not left[connection]:
                        del left[connection]
                await asyncio.sleep(LOOK_SECONDS)

    def _bind(self) -> int:
        settings = self._settings
        tls = read_tls(settings)
        if not self._shared_port:
            check_free(settings.host, settings.port)
        address = address_text(settings.host, self._shared_port or settings.port)
        try:
            if tls is None:
                return self._server.add_insecure_port(address)
            credentials = grpc.ssl_server_credentials(
                [(tls.key, tls.cert)], tls.client_ca, require_client_auth=tls.client_ca is not None
            )
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise InvalidInput(f"{address} cannot be listened on: {error}") from error


class Calls:
    """Which calls have not ended yet, their last bytes included."""

    def __init__(self) -> None:
        self._newest = _Generation()

    def begin(self, context: Context) -> None:
        """Count a call until the library is done with it."""
        generation = self._newest
        generation.running += 1
        context.add_done_callback(generation.end)  # type: ignore[arg-type]

    async def all_left(self) -> None:
        """Wait for the calls that have begun by now; others may come meanwhile."""
        generation, self._newest = self._newest, _Generation()
        while generation.running:
            generation.ended.clear()
            await generation.ended.wait()


class _Generation:
    """The calls that begin between two moments."""

    def __init__(self) -> None:
        self.running = 0
        self.ended = asyncio.Event()

    def end(self, _context: Context) -> None:
        self.running -= 1
        self.ended.set()


class Handlers(grpc.GenericRpcHandler):
    """Every method of a servicer as a handler of raw bytes.

    grpcio parses nothing, because it answers a malformed message as UNKNOWN.
    """

    def __init__(self, servicer: Servicer, calls: Calls) -> None:
        self._handlers: dict[str, Any] = {
            method: grpc.unary_unary_rpc_method_handler(_unary(servicer, method, calls))
            for method in servicer.unary_methods
        }
        for method in servicer.stream_methods:
            # One message one way is a stream too, on the wire.
            self._handlers[method] = grpc.stream_stream_rpc_method_handler(
                _stream(servicer, method, calls)
            )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call; none where the server lacks it."""
        return self._handlers.get(handler_call_details.method)


def _unary(servicer: Servicer, method: str, calls: Calls) -> Any:
    async def answer(payload: bytes, context: Context) -> bytes:
        calls.begin(context)
        try:
            return await servicer.unary(method, payload, _call(context))
        except TwinportError as error:
            await _abort(context, error)

    return answer


def _stream(servicer: Servicer, method: str, calls: Calls) -> Any:
    async def answer(payloads: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        calls.begin(context)
        try:
            async for payload in servicer.stream(method, payloads, _call(context)):
                yield payload
        except TwinportError as error:
            await _abort(context, error)

    return answer


def _call(context: Context) -> Call:
    left = context.time_remaining()
    deadline = None if left is None else time.monotonic() + left
    return Call(deadline, tuple(context.invocation_metadata() or ()))


async def _abort(context: Context, error: TwinportError) -> NoReturn:
    await context.abort(STATUS_CODES[error.status], details_of(error))


def channel_options(settings: ServerSettings, *, shared: bool = False) -> list[tuple[str, int]]:
    """Options of grpcio: message sizes, one process a port, clients that ping."""
    size = settings.max_message_mb * 2**20
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        # Else a second server shares the port without a word.
        ("grpc.so_reuseport", int(shared)),
        # Else a client that keeps its connection alive is sent away for too many pings.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Else requests are thrown away at random, as CANCELLED, while more than 1000 of them
        # wait to be seen by Python; the queues of the models are what limits them.
        ("grpc.server.max_pending_requests", _PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _PENDING),
    ]
