"""What runs inside Envoy: the life of the server and the application that answers.

pyvoy imports ``app`` on Envoy's main thread, calls it once for the life span of the server,
on the event loop, and then for each request. Envoy listens as soon as the life span has
begun, so that models are loaded while it answers already.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn

from runtime.cores import SharedCore, roam, threads_named
from runtime.errors import TwinportError
from runtime.observe.failures import use_json_lines
from runtime.server import Life
from runtime.settings import ServerSettings
from runtime.start import say
from runtime.transports.answers import Send
from runtime.transports.asgi import GrpcApp
from runtime.transports.base import ENDING, address_text
from runtime.transports.handoff import VARIABLE, settings_from_text
from runtime.transports.messages import Event, Receive
from runtime.transports.unsent import listening_ports, unsent_bytes

LOOK_SECONDS = 0.002
"""How often it is looked whether Envoy listens, and whether answers have left."""
QUIET_LOOKS = 3
"""Looks in a row without bytes to send after which all have left."""
_NAMELESS = "envoy"
"""What threads are called that nobody gave a name: as the program."""


class Application:
    """The one application of the process."""

    # Tells pyvoy to call with all three arguments; being no coroutine function saves a layer.
    _asgi_single_callable = True

    def __init__(self) -> None:
        self._answer: GrpcApp | None = None
        self._ended = threading.Event()
        self._running: asyncio.Task[None] | None = None

    def __call__(self, scope: Event, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request, or live through the server's life span."""
        if self._answer is not None and scope["type"] == "http":
            return self._answer(scope, receive, send)
        return self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            life, transport = _begin(*settings_from_text(os.environ.pop(VARIABLE)))
        except TwinportError as error:
            _fail(f"twinport: {' '.join(str(error).split())}", error.exit_code)
        self._answer = transport.app
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._wait_for_signal, args=(loop, life.stop), name="signals", daemon=True
        ).start()
        self._running = asyncio.create_task(self._run(life, transport))
        await asyncio.sleep(0)  # it has seen who listens before Envoy does
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def _run(self, life: Life, transport: EnvoyTransport) -> None:
        try:
            await life.run(transport)
        except TwinportError as error:
            _fail(f"twinport: {' '.join(str(error).split())}", error.exit_code)
        except Exception:
            _fail(traceback.format_exc(), 1)
        self._ended.set()

    def _wait_for_signal(self, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
        """Wait for the end on behalf of all threads, in which its signals are blocked."""
        signal.sigwait(ENDING)
        loop.call_soon_threadsafe(stop.set)
        self._ended.wait()
        # The last answers have left. Envoy would end by a signal too, and does not bear a second.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


class EnvoyTransport:
    """Envoy around this interpreter; it starts and listens by itself."""

    def __init__(self, life: Life, settings: ServerSettings) -> None:
        self.app = GrpcApp(
            life.servicer, settings.max_message_mb * 2**20, compress=settings.compression == "gzip"
        )
        self._host = settings.host
        self._port = 0
        self._core: SharedCore | None = None

    async def start(self) -> str:
        """Wait until Envoy listens, which it begins to once the life span has begun."""
        others = listening_ports()
        while not (ports := listening_ports() - others):
            await asyncio.sleep(LOOK_SECONDS)
        self._port = ports.pop()
        self._share_core()
        return address_text(self._host, self._port)

    def _share_core(self) -> None:
        """Bring the event loop together with the thread that hands it what Envoy reads."""
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(initializer=roam))
        own = {os.getpid(), *(thread.native_id for thread in threading.enumerate())}
        loop = threading.get_native_id()
        # pyvoy starts it right after the one with the loop, and gives it no name.
        handing = min((id for id in threads_named(_NAMELESS) - own if id > loop), default=None)
        if handing is not None:
            self._core = SharedCore([loop, handing])
            self._core.watch()

    async def stop(self, seconds: float) -> None:
        """See ``Transport``; Envoy itself ends with the process."""
        if self._core is not None:
            self._core.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                quiet = 0
                while quiet < QUIET_LOOKS:
                    busy = self.app.running or unsent_bytes(self._port)
                    quiet = 0 if busy else quiet + 1
                    await asyncio.sleep(LOOK_SECONDS)


def _begin(settings: ServerSettings, told: dict[str, Any]) -> tuple[Life, EnvoyTransport]:
    """Put the process back to how the user started it, and look into the repository."""
    sys.executable = told["executable"]
    os.chdir(told["folder"])
    # What Envoy needed to find this interpreter would lead other programs astray.
    for name, value in told["before"].items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("runtime").setLevel(told["log_level"])
    if settings.log_format == "json":
        use_json_lines()
    life = Life(settings, say)
    return life, EnvoyTransport(life, settings)


def _fail(text: str, code: int) -> NoReturn:
    sys.stderr.write(text.rstrip("\n") + "\n")
    sys.stderr.flush()
    os._exit(code)


if sys.path[:1] == ["."]:
    # pyvoy puts it there; what lies in the user's folder is none of ours.
    del sys.path[0]

app = Application()
