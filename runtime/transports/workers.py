"""Several processes on one port: started, watched, restarted, seen as one server.

The parent answers no request and never starts gRPC. It holds the port, over which the
kernel spreads connections (SO_REUSEPORT), not requests: one connection stays with one worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import uvloop

from runtime.errors import TwinportError
from runtime.observe.collector import exposition
from runtime.observe.endpoint import LOOP_SECONDS, MetricsEndpoint
from runtime.observe.snapshot import Snapshot, past_of, summed
from runtime.server import NOT_READY, stop_at_signal
from runtime.settings import ServerSettings
from runtime.transports.base import address_text
from runtime.transports.group_memory import GroupMemory
from runtime.transports.handoff import LISTEN, TOTALS
from runtime.transports.restarts import Restarts
from runtime.transports.sockets import reserved
from runtime.transports.tls import read_tls
from runtime.transports.worker_handle import Heard, Worker, start_worker

logger = logging.getLogger(__name__)


def run_workers(settings: ServerSettings, report: Callable[[str], None]) -> None:
    """Serve by ``settings.workers`` processes until SIGTERM or SIGINT, then drain them.

    Raises:
        TwinportError: The address cannot be had, or workers do not start.
    """
    # It hears of a signal whichever thread takes it; asyncio's loop does for its own handlers only.
    uvloop.run(_serve(settings, report))


async def _serve(settings: ServerSettings, report: Callable[[str], None]) -> None:
    read_tls(settings)
    stop = asyncio.Event()
    stop_at_signal(stop)
    with closing(reserved(settings.host, settings.port)) as held:
        group = _Group(settings, held.getsockname()[1], report)
        metrics = _metrics(settings, group)
        try:
            await group.run(stop, metrics.url if metrics else "")
        finally:
            if metrics is not None:
                metrics.close()


def _metrics(settings: ServerSettings, group: _Group) -> MetricsEndpoint | None:
    if not settings.metrics:
        return None
    loop = asyncio.get_running_loop()

    def collect() -> Snapshot:
        return asyncio.run_coroutine_threadsafe(group.snapshot(), loop).result(2 * LOOP_SECONDS)

    return MetricsEndpoint(settings.metrics_host, settings.metrics_port_wanted, exposition(collect))


@dataclass(frozen=True)
class _End:
    """Of one worker.

    Attributes:
        served_s: How long it served; 0 for one that failed to start.
        what: What became of it.
        text: Why the server ends, where it ends for it.
    """

    served_s: float
    what: str
    text: str


class _Group:
    """All workers of a server."""

    def __init__(self, settings: ServerSettings, port: int, report: Callable[[str], None]) -> None:
        self._settings = settings
        self._port = port
        self._report = report
        self._workers: dict[int, Worker] = {}
        self._past = Snapshot()
        self._memory = GroupMemory(lambda: list(self._workers.values()))
        self._up = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._said: list[str] = []
        self._not_ready: list[tuple[int, str]] = []
        # The loop itself keeps no task alive.
        self._answering: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event, metrics_url: str) -> None:
        """Keep all workers alive until ``stop`` is set, then drain them.

        Raises:
            TwinportError: A worker does not start.
        """
        jobs = [self._keep(number) for number in range(self._settings.workers)]
        jobs += [self._announce(metrics_url), _ends_with(stop)]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            # Only the last ends by itself; the others by a failure.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._stopping = True
            seconds = self._settings.drain_seconds
            await asyncio.gather(*(worker.end(seconds) for worker in self._workers.values()))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def snapshot(self) -> Snapshot:
        """What all workers did, those that have ended too."""
        running = list(self._workers.values())
        await asyncio.gather(*(worker.take_snapshot(LOOP_SECONDS) for worker in running))
        # One that ended meanwhile is in the past now.
        return summed([worker.snapshot for worker in self._workers.values()], [self._past])

    async def _announce(self, metrics_url: str) -> None:
        """Let the workers listen once all have loaded, and say so once all do."""
        await self._until(lambda worker: worker.loaded)
        self._up = True
        self._warn()
        for worker in self._workers.values():
            self._heard(worker)
        await self._until(lambda worker: bool(worker.address))
        self._report(f"listening on {address_text(self._settings.host, self._port)}")
        if metrics_url:
            self._report(f"metrics at {metrics_url}")
        if self._said:
            self._report(self._said[-1])
        await asyncio.Event().wait()

    async def _until(self, holds: Callable[[Worker], bool]) -> None:
        while len(self._workers) < self._settings.workers or not all(
            map(holds, self._workers.values())
        ):
            self._changed.clear()
            await self._changed.wait()

    async def _keep(self, number: int) -> None:
        """Start one worker, again and again.

        Raises:
            TwinportError: It does not start.
        """
        restarts = Restarts()
        while True:
            end = await self._run(number)
            if self._stopping:
                return
            pause = restarts.pause_after(end.served_s)
            if not self._up or pause is None:
                raise TwinportError(end.text)
            logger.warning("worker %d %s; it is started again in %g s", number, end.what, pause)
            await asyncio.sleep(pause)
            if self._stopping:
                return

    async def _run(self, number: int) -> _End:
        """Start one worker and hear it until it ends."""
        try:
            worker = await self._start(number)
        except OSError as error:
            what = f"cannot be started ({error.strerror or error})"
            return _End(0.0, what, f"a worker {what}")
        if self._stopping:
            await worker.end(0)  # it was not there yet when all others were told
        code = await worker.run()
        what = f"ended with code {code}"
        text = worker.failed[0] if worker.failed else f"a worker {what} before it served"
        if not self._stopping:
            self._past = past_of(worker.snapshot, self._past)
            del self._workers[number]
        return _End(worker.served_s, what, text)

    async def _start(self, number: int) -> Worker:
        first = number == 0 and not self._up
        say = self._say if first else lambda line: self._say_of_another(number, line)
        heard = Heard(self._heard, say, self._asked)
        worker = await start_worker(self._settings, self._port, heard)
        self._workers[number] = worker
        self._memory.introduce(worker)
        return worker

    def _heard(self, worker: Worker) -> None:
        if self._up and worker.loaded:
            worker.tell_once(LISTEN)
        self._changed.set()

    def _asked(self, worker: Worker, number: int, question: dict[str, Any]) -> None:
        async def answer() -> None:
            if TOTALS in question:
                totals = (await self.snapshot()).without_experts()
                worker.answer(number, totals=totals.to_dict())
                return
            try:
                await self._memory.change(question)
            except TwinportError as error:
                worker.answer(number, error=type(error).__name__, text=str(error))
            else:
                worker.answer(number)

        task = asyncio.create_task(answer())
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    def _say(self, line: str) -> None:
        """Print what the first worker says; its last line only when all are ready."""
        if self._said:
            self._report(self._said[-1])
        self._said.append(line)

    def _say_of_another(self, number: int, line: str) -> None:
        """Of what every worker says the same, one that is not the first says no more than this."""
        if line.startswith(NOT_READY):
            self._not_ready.append((number, line))
        if self._up:
            self._warn()

    def _warn(self) -> None:
        """Say why a worker does not answer for a version, unless the first said the same."""
        for number, line in self._not_ready:
            if line not in self._said:
                logger.warning("worker %d: %s", number, line)
        self._not_ready.clear()


async def _ends_with(event: asyncio.Event) -> None:
    await event.wait()
