"""The lines that a worker and its parent send each other through pipes.

Either may be killed amid a line; what is no whole one is left out.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from typing import IO, Any

logger = logging.getLogger(__name__)

MAX_LINE = 2**26
"""Bytes of a line, which holds the counts of every model."""


class _UntilItsEnd(asyncio.StreamReaderProtocol):
    """Closes its pipe at the end; uvloop would leave it open."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


async def reader_of(pipe: IO[Any]) -> asyncio.StreamReader:
    """Read a pipe from now on; it is closed at its end."""
    reader = asyncio.StreamReader(MAX_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: _UntilItsEnd(reader), pipe)
    return reader


async def whole_lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Each line until the end; without one that the end cuts off, or that is too long."""
    left_out = 0
    while True:
        try:
            line = await reader.readuntil()
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError as error:
            left_out += len(await reader.readexactly(error.consumed))
            continue
        if left_out:
            logger.warning("a line of %d bytes is left out; it is too long", left_out + len(line))
            left_out = 0
        else:
            yield line


def write_whole(descriptor: int, line: bytes) -> None:
    """Write all of a line; it is lost where nobody reads any more."""
    rest = memoryview(line)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BrokenPipeError:
            return
