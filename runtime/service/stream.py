"""``ModelStreamInfer``: many requests on one stream, computed side by side, answered in order.

The order is Triton's: a request is begun as soon as it is read, so that requests of one
stream share calls of the model, and answers leave in the order of the requests. An error is
the answer of its own request; the stream goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

REQUESTS = 128
"""Requests of one stream that are read and not answered yet; no more are read meanwhile."""


async def answered_in_order(
    payloads: AsyncIterator[bytes],
    answer: Callable[[bytes], Awaitable[bytes]],
    drained: asyncio.Event,
    limit: int = REQUESTS,
) -> AsyncGenerator[bytes, None]:
    """Answer each message with one, in order, up to ``limit`` of them at a time.

    Args:
        payloads: What the client sends.
        answer: Computes one answer; what it raises ends the stream.
        drained: Once it is set no more is read; what was read is still answered.
        limit: Messages that are read and whose answers are not taken yet.
    """
    begun: asyncio.Queue[asyncio.Future[bytes] | None] = asyncio.Queue()
    room = asyncio.Semaphore(limit)
    running: set[asyncio.Future[bytes]] = set()

    async def read() -> None:
        try:
            await room.acquire()
            async for payload in payloads:
                task = asyncio.ensure_future(answer(payload))
                running.add(task)
                begun.put_nowait(task)
                await room.acquire()
        finally:
            begun.put_nowait(None)

    reader = asyncio.create_task(read())
    closing = asyncio.create_task(_cancel_once(drained, reader))
    try:
        while (task := await begun.get()) is not None:
            yield await task
            running.discard(task)
            room.release()
        if not reader.cancelled() and not drained.is_set():
            await reader
    finally:
        # The client has gone, or an answer failed: what waits is not computed any more.
        left: list[asyncio.Future[Any]] = [reader, closing, *running]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _cancel_once(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    await event.wait()
    task.cancel()
