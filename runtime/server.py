"""The life of a server, whatever its transport: load, answer, drain, end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

from runtime.backends.base import BackendOptions
from runtime.errors import TwinportError
from runtime.experts.store import LoadStore
from runtime.loading import LoadOptions
from runtime.observe.collector import exposition
from runtime.observe.endpoint import MetricsEndpoint, on_loop
from runtime.observe.tracing import tracer_from_environment
from runtime.repository import POLL, Repository
from runtime.service.siblings import Siblings
from runtime.servicer import Servicer
from runtime.settings import ServerSettings
from runtime.shadow.settings import ShadowSettings
from runtime.transports.base import ENDING, SEND_SECONDS, Transport
from runtime.verdicts import VerdictStore
from runtime.versions import State, Version

logger = logging.getLogger(__name__)

NOT_READY = "not ready: "
"""Begins a line that says why a version does not answer."""
Report = Callable[[str], None]
"""Gets one line each for the address and for every version, once it is known."""


class Life:
    """One repository served in this process, from its loading to its end."""

    def __init__(
        self,
        settings: ServerSettings,
        report: Report,
        siblings: Siblings | None = None,
    ) -> None:
        """Look what is there; nothing is loaded yet.

        Args:
            settings: How to serve.
            report: Gets what is to be printed.
            siblings: See ``Servicer``.

        Raises:
            NotFound: There is no such folder.
            RepositoryError: It holds no models.
        """
        self.stop = asyncio.Event()
        self._settings = settings
        self._report = report
        self._repository = open_repository(settings)
        self._tracer = tracer_from_environment(os.environ)
        self.servicer = Servicer(self._repository, tracer=self._tracer, siblings=siblings)
        self._loading: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._metrics: MetricsEndpoint | None = None

    async def run(self, transport: Transport) -> None:
        """Take requests, load, and serve until ``stop`` is set.

        Raises:
            InvalidInput: The address cannot be had.
        """
        address = await transport.start()
        try:
            self.open_metrics()
        except TwinportError:
            await transport.stop(0)
            raise
        self._report(f"listening on {address}")
        if self._metrics is not None:
            self._report(f"metrics at {self._metrics.url}")
        self.load()
        await self.end(transport)

    def open_metrics(self) -> None:
        """Serve metrics of this process, where they are wanted, until the end.

        Raises:
            InvalidInput: Their address cannot be had.
        """
        if self._settings.metrics:
            take = on_loop(asyncio.get_running_loop(), self.servicer.snapshot)
            text = exposition(lambda: take().whole())
            host, port = self._settings.metrics_host, self._settings.metrics_port_wanted
            self._metrics = MetricsEndpoint(host, port, text)

    def load(self) -> asyncio.Task[None]:
        """Begin to load; it ends without an exception but for a defect, which ends the server."""
        loading = asyncio.create_task(self._load())
        loading.add_done_callback(lambda task: self.stop.set() if task.exception() else None)
        self._loading = loading
        return loading

    async def end(self, transport: Transport) -> None:
        """Wait for ``stop``, let running requests finish, close."""
        await self.stop.wait()
        logger.info("draining: up to %g s for requests that run", self._settings.drain_seconds)
        end = time.monotonic() + self._settings.drain_seconds
        self.servicer.begin_drain()
        await self.servicer.wait_idle(self._settings.drain_seconds)
        await transport.stop(max(end - time.monotonic(), SEND_SECONDS))
        self.servicer.failures.close()
        if self._tracer is not None:
            self._tracer.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._following is not None:
            self._following.cancel()
        assert self._loading is not None, "whoever ends has begun to load"
        if not self._loading.done() or self._repository.busy:
            _leave_at_once()
        self._repository.close()
        await self._loading

    async def _load(self) -> None:
        repository = self._repository
        await repository.load(lambda version: _say_state(version, self._report))
        for entry in repository.entries.values():
            if entry.wanted and not entry.versions:
                self._report(f"{NOT_READY}{entry.name}: {entry.complaint()}")
        ready = sum(bool(entry.ready()) for entry in repository.entries.values())
        # What was loaded stays; looking through it again and again would hold requests up.
        gc.collect()
        gc.freeze()
        self._report(f"{ready} of {len(repository.entries)} models ready")
        if self._settings.model_control == POLL:
            self._following = asyncio.create_task(repository.follow(self._settings.poll_seconds))


def run_server(settings: ServerSettings, report: Report) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        TwinportError: There is nothing to serve, or the address cannot be had.
    """
    # Each transport is a library of its own; only the one that is asked for comes in.
    import uvloop

    uvloop.run(_serve(settings, report))


async def _serve(settings: ServerSettings, report: Report) -> None:
    from runtime.transports.grpcio import GrpcioTransport

    life = Life(settings, report)
    stop_at_signal(life.stop)
    await life.run(GrpcioTransport(life.servicer, settings))


def stop_at_signal(stop: asyncio.Event) -> None:
    """Set an event once SIGTERM or SIGINT comes, on a loop of uvloop; another changes nothing.

    Handlers of the loop would be taken away with it, before the process ends; a signal that
    came then would end it with another code.
    """
    loop = asyncio.get_running_loop()

    def asked(*_: object) -> None:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        # A loop that is closed has nobody left who would stop.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(stop.set)

    for number in ENDING:
        signal.signal(number, asked)


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
        ShadowSettings(settings.shadow, settings.shadow_action, settings.shadow_seed),
        LoadStore(settings.state, settings.experts_load),
    )
    return Repository(
        settings.repository,
        options,
        control=settings.model_control,
        load_models=settings.load_models,
    )


def _leave_at_once() -> NoReturn:
    """End although a model loads or runs: its thread cannot be stopped, Python would wait."""
    logger.warning("draining is over; what still runs is cut off")
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)


def _say_state(version: Version, report: Report) -> None:
    if version.state is State.READY:
        unproved = f" (unproved: {version.reason})" if version.reason else ""
        report(f"ready: {version}{unproved}")
    elif version.wanted:
        report(f"{NOT_READY}{version}: {version.reason}")
