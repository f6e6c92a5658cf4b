"""What asyncio does to a call that the library does not: cancel it."""

from __future__ import annotations

import asyncio

import pytest

from runtime.client_async import AsyncClient
from runtime.errors import InvalidInput, Unavailable


class Cancelled:
    """A stream as ``grpc.aio`` leaves it when sending failed before the status came."""

    def __aiter__(self):
        return self

    async def __anext__(self):
        raise asyncio.CancelledError

    def cancel(self):
        pass


class Silent(Cancelled):
    """A stream without answers."""

    async def __anext__(self):
        await asyncio.Event().wait()


async def listened(stream):
    async with AsyncClient("127.0.0.1:1") as client:
        client._calls["ModelStreamInfer"] = lambda *_args, **_options: stream
        return [answer async for answer in client.stream("m", [])]


async def test_a_stream_that_the_library_cancels_is_an_error_and_no_cancellation():
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 ended the stream"):
        await listened(Cancelled())


async def test_a_task_that_is_cancelled_while_it_listens_is_cancelled():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await listened(Silent())


async def test_a_call_that_waits_while_another_task_closes_the_client_says_so(hanging):
    url, arrived = hanging
    client = AsyncClient(url)
    call = asyncio.create_task(client.live())
    await asyncio.to_thread(arrived.wait, 30)
    await client.close()
    with pytest.raises(InvalidInput, match="is closed"):
        await call


async def test_a_stream_that_waits_while_another_task_closes_the_client_says_so():
    client = AsyncClient("127.0.0.1:1")
    client._calls["ModelStreamInfer"] = lambda *_args, **_options: Cancelled()
    stream = client.stream("m", [])
    answer = asyncio.ensure_future(anext(stream))
    await client.close()
    with pytest.raises(InvalidInput, match="is closed"):
        await answer


async def test_a_task_that_is_cancelled_while_it_waits_is_cancelled(hanging):
    url, _ = hanging
    async with AsyncClient(url) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.live()
