"""The service behind grpcio: bytes in and out, deadlines, errors, the port."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, NoReturn, TypeAlias

import grpc

from runtime.errors import InvalidInput, TwinportError
from runtime.servicer import Call, Servicer
from runtime.settings import ServerSettings
from runtime.transports.base import address_text, details_of
from runtime.transports.sockets import check_free
from runtime.transports.tls import read_tls

STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}

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
        self._server = grpc.aio.server(
            options=channel_options(settings, shared=bool(shared_port)), compression=compression
        )
        self._server.add_generic_rpc_handlers((Handlers(servicer),))

    async def start(self) -> str:
        """See ``Transport``."""
        port = self._bind()
        await self._server.start()
        self._started = True
        return address_text(self._settings.host, port)

    async def stop(self, seconds: float) -> None:
        """See ``Transport``."""
        if self._started:
            await self._server.stop(seconds)

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


class Handlers(grpc.GenericRpcHandler):
    """Every method of a servicer as a handler of raw bytes.

    grpcio parses nothing, because it answers a malformed message as UNKNOWN.
    """

    def __init__(self, servicer: Servicer) -> None:
        self._handlers: dict[str, Any] = {
            method: grpc.unary_unary_rpc_method_handler(_unary(servicer, method))
            for method in servicer.unary_methods
        }
        for method in servicer.stream_methods:
            # One message one way is a stream too, on the wire.
            self._handlers[method] = grpc.stream_stream_rpc_method_handler(
                _stream(servicer, method)
            )

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call; none where the server lacks it."""
        return self._handlers.get(handler_call_details.method)


def _unary(servicer: Servicer, method: str) -> Any:
    async def answer(payload: bytes, context: Context) -> bytes:
        try:
            return await servicer.unary(method, payload, _call(context))
        except TwinportError as error:
            await _abort(context, error)

    return answer


def _stream(servicer: Servicer, method: str) -> Any:
    async def answer(payloads: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
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
