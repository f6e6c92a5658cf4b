"""A server of grpcio: where it listens, how it begins and how it ends."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack, suppress

import grpc

from runtime.errors import InvalidInput
from runtime.servicer import Servicer
from runtime.settings import ServerSettings
from runtime.transports.base import SEND_SECONDS, address_text
from runtime.transports.grpcio_calls import Calls
from runtime.transports.grpcio_queue import EventPump, core
from runtime.transports.sockets import check_free
from runtime.transports.tls import read_tls
from runtime.transports.unsent import connections_of, unsent_bytes_of
from runtime.yielding import Yielding

LOOK_SECONDS = 0.004
"""How often it is looked whether the last bytes have arrived."""
QUIET_LOOKS = 5
"""Looks without bytes to send after which nothing is left with the library's threads."""
_PENDING = 2**20
"""Requests that have come and that no handler has begun."""


class GrpcioTransport:
    """A server of grpcio's core on the running event loop."""

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
        self._yielding = Yielding()
        self._port = 0
        self._pump = EventPump(lambda: not servicer.busy)
        options = channel_options(settings, shared=bool(shared_port))
        self._server = core.Server(tuple(options), False)
        self._server.register_completion_queue(self._pump.queue)
        self._calls = Calls(servicer, self._server, self._pump, settings.max_message_mb * 2**20)

    async def start(self) -> str:
        """See ``Transport``."""
        self._port = self._bind()
        self._server.start()
        self._pump.start()
        self._calls.take()
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
        self._started = False
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
            await self._end()
            # Closed while requests are unread, one would lose answers that are on the way.
            while time.monotonic() < end and any(map(unsent_bytes_of, connections)):
                await asyncio.sleep(LOOK_SECONDS)

    async def _end(self) -> None:
        """Let nobody in any more, end the calls that run as cancelled, and give all of it back.

        The core waits for each connection to end; where one does not, what is left goes with
        the process.
        """
        ended = asyncio.Event()
        self._calls.refuse()
        self._server.shutdown(self._pump.queue, lambda _event: ended.set())
        self._server.cancel_all_calls()
        with suppress(TimeoutError):
            async with asyncio.timeout(SEND_SECONDS):
                await ended.wait()
                self._server.destroy()
                self._calls.finish()
                await self._pump.close()

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
        credentials = None
        if tls is not None:
            pair = core.SslPemKeyCertPair(tls.key, tls.cert)
            credentials = core.server_credentials_ssl(
                tls.client_ca, [pair], tls.client_ca is not None
            )
        address = address_text(settings.host, self._shared_port or settings.port)
        port = int(self._server.add_http2_port(address.encode(), credentials))
        if not port:
            raise InvalidInput(f"{address} cannot be listened on")
        return port


def channel_options(settings: ServerSettings, *, shared: bool = False) -> list[tuple[str, int]]:
    """Options of grpcio's core: message sizes, compression, one process a port, pings."""
    size = settings.max_message_mb * 2**20
    packing = (
        grpc.Compression.Gzip if settings.compression == "gzip" else grpc.Compression.NoCompression
    )
    return [
        ("grpc.default_compression_algorithm", int(packing)),
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
