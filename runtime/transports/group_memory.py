"""The shared memory regions of several workers: opened once, known to each.

The parent opens an object by its name and holds it, so that each worker, one that is started
later too, gets the very same one, whatever the client does with the name.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

from runtime.observe.endpoint import LOOP_SECONDS
from runtime.service.regions import Regions
from runtime.transports.handoff import REGIONS
from runtime.transports.worker_handle import Worker

logger = logging.getLogger(__name__)

REGISTER, UNREGISTER = "register", "unregister"
"""What a worker asks for: with the fields of ``Regions.register``, or with a name."""


class GroupMemory:
    """The regions of a group."""

    def __init__(self, workers: Callable[[], Iterable[Worker]]) -> None:
        """Know none; ``workers`` gives those that run."""
        self._workers = workers
        self._regions = Regions()
        self._turn = asyncio.Lock()

    async def change(self, question: dict[str, Any]) -> None:
        """Do what a worker asks for, and return when all that take requests know of it.

        Raises:
            TwinportError: See ``Regions.register``.
        """
        async with self._turn:
            if REGISTER in question:
                self._regions.register(*question[REGISTER])
            else:
                self._regions.unregister(question[UNREGISTER])
            told = json.dumps(self._regions.told())
            listening = [worker for worker in self._workers() if worker.address]
            for worker in self._workers():
                if not worker.address:
                    self._tell(worker, told)
            await asyncio.gather(*(self._wait(worker, told) for worker in listening))

    def introduce(self, worker: Worker) -> None:
        """Tell a worker that has just been started."""
        self._tell(worker, json.dumps(self._regions.told()))

    def _tell(self, worker: Worker, told: str) -> None:
        worker.tell(f"{REGIONS} 0 {told}")

    async def _wait(self, worker: Worker, told: str) -> None:
        if not await worker.ask(REGIONS, LOOP_SECONDS, told):
            logger.warning("a worker does not answer; it takes shared memory regions later")
