"""The service behind grpcio: bytes in and out, deadlines, errors, start, drain and end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from typing import Any, NoReturn, TypeAlias

import grpc
import uvloop

from runtime.backends.base import BackendOptions
from runtime.errors import InvalidInput, TwinportError
from runtime.loading import LoadOptions
from runtime.repository import Repository
from runtime.servicer import Call, Servicer
from runtime.settings import ServerSettings
from runtime.verdicts import VerdictStore
from runtime.versions import State, Version

logger = logging.getLogger(__name__)

STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
MAX_DETAILS = 1000
"""Characters of an error's text; it travels in a header of limited size."""
SEND_SECONDS = 0.5
"""Time for the last answers to leave once nothing runs any more."""

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


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
    text = " ".join(str(error).split())
    await context.abort(STATUS_CODES[error.status], text[:MAX_DETAILS])


def channel_options(settings: ServerSettings) -> list[tuple[str, int]]:
    """Options of grpcio: message sizes, one process a port, clients that ping."""
    size = settings.max_message_mb * 2**20
    return [
        ("grpc.max_receive_message_length", size),
        ("grpc.max_send_message_length", size),
        # Else a second server shares the port without a word.
        ("grpc.so_reuseport", 0),
        # Else a client that keeps its connection alive is sent away for too many pings.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]


def run_server(settings: ServerSettings, report: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        settings: How.
        report: Gets one line each for the address and for every version, once it is known.

    Raises:
        TwinportError: There is nothing to serve, or the address cannot be had.
    """
    uvloop.run(_serve(settings, report))


async def _serve(settings: ServerSettings, report: Callable[[str], None]) -> None:
    """The life of a server."""
    stop = _stop_signal()
    repository = open_repository(settings)
    servicer = Servicer(repository)
    server = grpc.aio.server(options=channel_options(settings))
    server.add_generic_rpc_handlers((Handlers(servicer),))
    address = _bind(server, settings)
    await server.start()
    report(f"listening on {address}")
    loading = asyncio.create_task(_load(repository, report))
    # Loading ends without an exception but for a defect; then there is nothing to wait for.
    loading.add_done_callback(lambda task: stop.set() if task.exception() else None)
    await stop.wait()
    await _drain(server, servicer, settings.drain_seconds)
    if not loading.done() or repository.busy:
        _leave_at_once()
    repository.close()
    await loading


async def _load(repository: Repository, report: Callable[[str], None]) -> None:
    await repository.load(lambda version: _report(version, report))
    for entry in repository.entries.values():
        if not entry.versions:
            report(f"not ready: {entry.name}: {entry.complaint()}")
    ready = sum(bool(entry.ready()) for entry in repository.entries.values())
    report(f"{ready} of {len(repository.entries)} models ready")


def _leave_at_once() -> NoReturn:
    """End although a model loads or runs: its thread cannot be stopped, Python would wait."""
    logger.warning("draining is over; what still runs is cut off")
    logging.shutdown()
    os._exit(0)


def open_repository(settings: ServerSettings) -> Repository:
    """The repository that the settings name, not loaded yet.

    Raises:
        NotFound: There is no such folder.
        RepositoryError: It holds no models.
    """
    options = LoadOptions(
        BackendOptions(
            settings.device, settings.threads, engine_code=settings.engine_code == "allow"
        ),
        settings.unproved == "allow",
        VerdictStore(settings.state),
    )
    return Repository(settings.repository, options)


def _stop_signal() -> asyncio.Event:
    """Set once SIGTERM or SIGINT comes; a second one changes nothing."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _drain(server: grpc.aio.Server, servicer: Servicer, seconds: float) -> None:
    logger.info("draining: no new requests, up to %g s for those that run", seconds)
    servicer.begin_drain()
    await servicer.wait_idle(seconds)
    await server.stop(SEND_SECONDS)


def _bind(server: grpc.aio.Server, settings: ServerSettings) -> str:
    """Bind and give the address back, with the port that the system chose.

    Raises:
        InvalidInput: The address cannot be had; the text names the system's reason.
    """
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    _check_free(settings)
    try:
        port = server.add_insecure_port(f"{host}:{settings.port}")
    except RuntimeError as error:
        raise InvalidInput(f"{host}:{settings.port} cannot be listened on: {error}") from error
    return f"{host}:{port}"


def _check_free(settings: ServerSettings) -> None:
    """Ask the system itself first: grpcio logs to stderr and gives no reason."""
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with closing(socket.socket(family, kind, protocol)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            # Linux lets two sockets bind with SO_REUSEADDR until one listens.
            probe.listen(1)
    except OSError as error:
        raise InvalidInput(
            f"{where} cannot be listened on: {error.strerror or error}; "
            "choose another --port, or 0 for a free one"
        ) from error


def _report(version: Version, report: Callable[[str], None]) -> None:
    if version.state is State.READY:
        unproved = f" (unproved: {version.reason})" if version.reason else ""
        report(f"ready: {version}{unproved}")
    elif version.wanted:
        report(f"not ready: {version}: {version.reason}")
