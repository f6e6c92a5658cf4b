"""One of several processes that serve the same repository on the same port.

It loads first and listens when its parent says so, so that a connection never lands on a
process that could not answer yet. Both talk in lines of JSON: the parent on standard input,
whose end means that the parent is gone; this process through a pipe that is for nothing else,
since any library may print to standard output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from dataclasses import replace
from typing import Any

import uvloop

from runtime import errors
from runtime.errors import TwinportError, Unavailable
from runtime.observe.endpoint import LOOP_SECONDS
from runtime.observe.failures import use_json_lines
from runtime.observe.snapshot import Snapshot, Taken, snapshot_from_dict
from runtime.server import Life, stop_at_signal
from runtime.settings import ServerSettings
from runtime.transports.group_memory import REGISTER, UNREGISTER
from runtime.transports.grpcio import GrpcioTransport
from runtime.transports.handoff import (
    ANSWER,
    LISTEN,
    REGIONS,
    SNAPSHOT,
    TOTALS,
    VARIABLE,
    settings_from_text,
)
from runtime.transports.lines import reader_of, whole_lines, write_whole


def main() -> int:
    """Serve until a signal or the end of the parent; returns the exit code."""
    settings, told = settings_from_text(os.environ.pop(VARIABLE))
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("runtime").setLevel(told["log_level"])
    if settings.log_format == "json":
        use_json_lines()
    parent = Parent(told["words"])
    try:
        uvloop.run(_work(settings, told["port"], parent))
    except TwinportError as error:
        parent.tell(failed=str(error), code=error.exit_code)
        return error.exit_code
    return 0


async def _work(settings: ServerSettings, port: int, parent: Parent) -> None:
    # The parent has the metrics of all.
    life = Life(replace(settings, metrics=False), lambda line: parent.tell(say=line), parent)
    stop_at_signal(life.stop)
    transport = GrpcioTransport(life.servicer, settings, shared_port=port)
    commands = await reader_of(sys.stdin)
    loading = life.load()
    loading.add_done_callback(lambda _: parent.tell(loaded=True))
    obeying = asyncio.create_task(_obey(commands, life, transport, parent))
    # Whatever happens to it, the process ends then.
    obeying.add_done_callback(lambda _: life.stop.set())
    await life.end(transport)
    if obeying.done() and (error := obeying.exception()) is not None:
        raise error
    obeying.cancel()


class Parent:
    """What this process tells and asks the one that started it; see ``Siblings``."""

    def __init__(self, words: int) -> None:
        """Write to a pipe that this process was given."""
        # What this process starts keeps nothing open that is to end with it.
        os.set_inheritable(words, False)
        self._words = words
        self._asks = 0
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}

    def tell(self, **fields: Any) -> None:
        """Write one line at once; a parent that has gone hears nothing."""
        self.write(_line(**fields))

    def write(self, line: bytes) -> None:
        """The same with a line that is made already."""
        write_whole(self._words, line)

    async def totals(self) -> Snapshot:
        """What all workers did, this one too, as far as they say so in time; no experts.

        Raises:
            Unavailable: The parent does not answer.
        """
        return snapshot_from_dict((await self._ask(**{TOTALS: True}))["totals"])

    async def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Let all workers know a shared memory region.

        Raises:
            TwinportError: See ``Regions.register``.
            Unavailable: The parent does not answer.
        """
        await self._ask(**{REGISTER: [name, key, offset, byte_size]})

    async def unregister(self, name: str) -> None:
        """Let all workers forget a shared memory region, or all where no name is given.

        Raises:
            Unavailable: The parent does not answer.
        """
        await self._ask(**{UNREGISTER: name})

    async def _ask(self, **question: Any) -> dict[str, Any]:
        self._asks += 1
        number = self._asks
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        self.tell(ask=number, **question)
        try:
            # The parent waits as long for each worker.
            async with asyncio.timeout(2 * LOOP_SECONDS):
                return await answer
        except TimeoutError as error:
            raise Unavailable("the other workers do not answer; ask again") from error
        finally:
            del self._asked[number]

    def hear(self, answer: str) -> None:
        """Take a number and what was asked for under it."""
        number, _, text = answer.partition(" ")
        waiting = self._asked.get(int(number))
        if waiting is None or waiting.done():
            return
        fields = json.loads(text)
        if "error" in fields:
            waiting.set_exception(getattr(errors, fields["error"])(fields["text"]))
        else:
            waiting.set_result(fields)


async def _obey(
    commands: asyncio.StreamReader, life: Life, transport: GrpcioTransport, parent: Parent
) -> None:
    """Do what the parent says until it is gone."""
    async for line in whole_lines(commands):
        command, _, rest = line.decode().rstrip().partition(" ")
        if command == LISTEN:
            parent.tell(listening=await transport.start())
        elif command == SNAPSHOT:
            taken = life.servicer.snapshot()
            parent.write(await asyncio.to_thread(_snapshot_line, taken, int(rest)))
        elif command == REGIONS:
            number, _, told = rest.partition(" ")
            life.servicer.take_regions(json.loads(told))
            parent.tell(number=int(number))
        elif command == ANSWER:
            parent.hear(rest)


def _snapshot_line(taken: Taken, number: int) -> bytes:
    return _line(snapshot=taken.whole().to_dict(), number=number)


def _line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


if __name__ == "__main__":
    sys.exit(main())
