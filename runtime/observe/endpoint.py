"""``/metrics`` over HTTP, in a thread of its own; nothing else is answered."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from typing import Any, Self, TypeVar

from runtime.cores import roam
from runtime.errors import InvalidInput
from runtime.observe.collector import CONTENT_TYPE

logger = logging.getLogger(__name__)

PATH = "/metrics"
MAX_CONNECTIONS = 16
"""More at one time are hung up on: each has a thread."""
QUIET_SECONDS = 10.0
"""A connection that says nothing for so long is ended."""
LOOP_SECONDS = 5.0
"""How long the event loop may take to let a snapshot be taken."""

T = TypeVar("T")


class MetricsEndpoint:
    """The listening socket and its thread, from the construction on until ``close``."""

    def __init__(self, host: str, port: int, text: Callable[[], bytes]) -> None:
        """Listen.

        Args:
            host: Address to listen on.
            port: 0 lets the system choose.
            text: Gives what is answered; called in another thread at each request.

        Raises:
            InvalidInput: The address cannot be had.
        """
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self._server = _server_of(family)((host, port), _handler_of(text))
        except OSError as error:
            raise InvalidInput(
                f"{host}:{port} cannot be listened on for metrics: {error.strerror or error}; "
                "choose another --metrics-port, 0 for a free one, or --no-metrics"
            ) from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_address[1]}{PATH}"
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        roam()
        self._server.serve_forever()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Answer nobody any more; calling it twice is allowed."""
        if not self._thread.is_alive():
            return
        closer = threading.Thread(target=self._server.shutdown)
        closer.start()
        # Wakes the thread, which would look only twice a second whether it is to end.
        with suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)
        closer.join()
        self._thread.join()
        self._server.server_close()


def on_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], T]) -> Callable[[], T]:
    """``function`` for other threads: it runs between two turns of the loop.

    What is counted on the loop is seen whole then, and counting needs no lock.
    """

    async def run() -> T:
        return function()

    def call() -> T:
        future = asyncio.run_coroutine_threadsafe(run(), loop)
        try:
            return future.result(LOOP_SECONDS)
        except TimeoutError:
            future.cancel()
            raise

    return call


def _server_of(family: socket.AddressFamily) -> type[ThreadingHTTPServer]:
    class Server(ThreadingHTTPServer):
        address_family = family
        # Ending the server waits for no scraper.
        daemon_threads = True
        block_on_close = False
        _free = threading.BoundedSemaphore(MAX_CONNECTIONS)

        def server_bind(self) -> None:
            # HTTPServer would ask the name service who we are, which may take seconds.
            TCPServer.server_bind(self)
            self.server_name, self.server_port = str(self.server_address[0]), 0

        def process_request(self, request: Any, client_address: Any) -> None:
            if self._free.acquire(blocking=False):
                super().process_request(request, client_address)
            else:
                self.shutdown_request(request)

        def process_request_thread(self, request: Any, client_address: Any) -> None:
            try:
                super().process_request_thread(request, client_address)
            finally:
                self._free.release()

        def handle_error(self, request: Any, client_address: Any) -> None:
            # Called while the exception is handled; by default it is printed.
            logger.debug("a request for metrics failed: %r", sys.exception())

    return Server


def _handler_of(text: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = QUIET_SECONDS

        def version_string(self) -> str:
            return "twinport"

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != PATH:
                self.send_error(HTTPStatus.NOT_FOUND, f"only {PATH} is here")
                return
            try:
                body = text()
            except Exception:
                logger.exception("metrics could not be collected")
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "the server's log has the reason")
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 (the library calls it so)

        def log_message(self, format: str, *args: Any) -> None:
            logger.debug(format, *args)

    return Handler
