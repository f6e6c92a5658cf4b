"""One worker as its parent sees it: a process, what it said, what it can be told."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.observe.snapshot import Snapshot, snapshot_from_dict
from runtime.settings import ServerSettings
from runtime.transports.handoff import ANSWER, SNAPSHOT, VARIABLE, settings_to_text
from runtime.transports.lines import reader_of, whole_lines

logger = logging.getLogger(__name__)

PROGRAM = "runtime.transports.worker_process"
KILL_SECONDS = 5.0
"""Time beyond its drain after which a worker is killed."""


@dataclass(frozen=True)
class Heard:
    """What the parent does with the words of a worker.

    Attributes:
        changed: Called after each line.
        say: Gets what a server of one process would print.
        asked: Called with a number and a question where it wants something of all workers.
    """

    changed: Callable[[Worker], None]
    say: Callable[[str], None]
    asked: Callable[[Worker, int, dict[str, Any]], None]


class Worker:
    """A process from its start to its end."""

    def __init__(self, process: Process, words: asyncio.StreamReader, heard: Heard) -> None:
        """See ``start_worker``."""
        self.loaded = False
        self.address = ""
        self.failed: tuple[str, int] | None = None
        self.snapshot = Snapshot()
        self._listens_since: float | None = None
        self._process = process
        self._words = words
        self._heard = heard
        self._asked: dict[int, asyncio.Event] = {}
        self._asks = 0
        self._told: set[str] = set()

    def tell(self, line: str) -> None:
        """Send it a command; one that has gone hears nothing."""
        if self._process.stdin is not None and self._process.returncode is None:
            # uvloop raises where the pipe is closed and the end of the process not seen yet.
            with suppress(RuntimeError):
                self._process.stdin.write(line.encode() + b"\n")

    def tell_once(self, line: str) -> None:
        """Send it a command unless it got it before."""
        if line not in self._told:
            self._told.add(line)
            self.tell(line)

    async def run(self) -> int:
        """Hear it until it ends; returns its exit code."""
        async for line in whole_lines(self._words):
            self._take(line)
        code = await self._process.wait()
        for answered in self._asked.values():
            answered.set()  # there is nothing newer to come
        return code

    @property
    def served_s(self) -> float:
        """Seconds since it listens; 0 before."""
        return 0.0 if self._listens_since is None else time.monotonic() - self._listens_since

    async def take_snapshot(self, seconds: float) -> None:
        """Let it say what it did so far; what it said last stays where it does not in time."""
        await self.ask(SNAPSHOT, seconds)

    async def ask(self, command: str, seconds: float, rest: str = "") -> bool:
        """Send it a command with a number and wait for its answer; False where none comes in time.

        One that ends meanwhile has nothing more to say, which counts as an answer.
        """
        if self._process.returncode is not None:
            return True
        self._asks += 1
        number = self._asks
        answered = self._asked[number] = asyncio.Event()
        self.tell(f"{command} {number} {rest}".rstrip())
        try:
            async with asyncio.timeout(seconds):
                return await answered.wait()
        except TimeoutError:
            return False
        finally:
            del self._asked[number]

    def answer(self, number: int, **fields: Any) -> None:
        """Answer what it asked for under a number."""
        self.tell(f"{ANSWER} {number} {json.dumps(fields)}")

    async def end(self, drain_seconds: float) -> None:
        """Let it drain; kill it where that takes too long."""
        if self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(drain_seconds + KILL_SECONDS):
                await self._process.wait()
        except TimeoutError:
            logger.warning("worker %d is killed", self._process.pid)
            self._process.kill()

    def _take(self, line: bytes) -> None:
        try:
            words = json.loads(line)
        except ValueError:
            words = None
        if isinstance(words, dict):
            self._hear(words)
        else:
            logger.warning("worker %d says what is left out: %.200r", self._process.pid, line)

    def _hear(self, words: dict[str, Any]) -> None:
        if (line := words.get("say")) is not None:
            self._heard.say(line)
        if (failed := words.get("failed")) is not None:
            self.failed = failed, words["code"]
        if (snapshot := words.get("snapshot")) is not None:
            self.snapshot = snapshot_from_dict(snapshot)
        if (answered := self._asked.get(words.get("number", 0))) is not None:
            answered.set()
        if (number := words.get("ask")) is not None:
            self._heard.asked(self, number, words)
        self.loaded = self.loaded or "loaded" in words
        if (address := words.get("listening")) is not None:
            self.address, self._listens_since = address, time.monotonic()
        self._heard.changed(self)


async def start_worker(settings: ServerSettings, port: int, heard: Heard) -> Worker:
    """Start a process; it listens on ``port`` once it is told to.

    Args:
        settings: How to serve.
        port: Held by the parent.
        heard: Called with what it says.

    Raises:
        OSError: The system gives no process or no pipe.
    """
    reading, writing = os.pipe()
    try:
        words = await reader_of(os.fdopen(reading, "rb", buffering=0))
        level = logging.getLogger("runtime").getEffectiveLevel()
        handed = settings_to_text(settings, port=port, log_level=level, words=writing)
        # -P: else modules of the current folder would come before ours.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", PROGRAM, stdin=PIPE, pass_fds=(writing,),
            env={**os.environ, VARIABLE: handed, "PYTHONPATH": _search_path()},
        )  # fmt: skip
    finally:
        os.close(writing)
    return Worker(process, words, heard)


def _search_path() -> str:
    ours = str(Path(__file__).parents[2])
    return os.pathsep.join(filter(None, (ours, os.environ.get("PYTHONPATH"))))
