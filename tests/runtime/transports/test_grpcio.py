"""The adapter for grpcio, over a service whose behaviour the test writes."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from runtime import errors
from runtime.errors import NotFound, Status, TwinportError
from runtime.settings import ServerSettings
from runtime.transports.base import MAX_DETAILS
from runtime.transports.grpcio import STATUS_CODES, Calls, Handlers, channel_options

SETTINGS = ServerSettings(Path("unused"), state=Path("unused"))


class Stub:
    """A servicer with one method of each kind; both do what ``behave`` does."""

    unary_methods = ("/a.B/Unary",)
    stream_methods = ("/a.B/Stream",)

    def __init__(self, behave):
        self.behave = behave

    async def unary(self, method, payload, call):
        return self.behave(payload, call)

    async def stream(self, method, payloads, _call):
        async for payload in payloads:
            yield self.behave(payload, None)


@asynccontextmanager
async def served(behave):
    server = grpc.aio.server(options=channel_options(SETTINGS))
    server.add_generic_rpc_handlers((Handlers(Stub(behave), Calls()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def failure(channel):
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await channel.unary_unary("/a.B/Unary")(b"1")
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        await channel.stream_stream("/a.B/Stream")(iter([b"1"])).read()
    assert unary.value.code() is stream.value.code()
    assert unary.value.details() == stream.value.details()
    return unary.value


async def test_bytes_go_there_and_back_unread():
    async with served(lambda payload, _call: payload + b"\xff") as channel:
        assert await channel.unary_unary("/a.B/Unary")(b"\xfe") == b"\xfe\xff"
        stream = channel.stream_stream("/a.B/Stream")(iter([b"1", b"2"]))
        assert [answer async for answer in stream] == [b"1\xff", b"2\xff"]


async def test_deadline_and_metadata_reach_the_service():
    calls = []

    def note(_payload, call):
        calls.append(call)
        return b""

    async with served(note) as channel:
        before = time.monotonic()
        await channel.unary_unary("/a.B/Unary")(b"", timeout=100, metadata=(("key", "value"),))
        await channel.unary_unary("/a.B/Unary")(b"")
    assert before < calls[0].deadline < before + 110
    assert ("key", "value") in [tuple(item) for item in calls[0].metadata]
    assert calls[1].deadline is None


def every_error():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, TwinportError)]


@pytest.mark.parametrize("kind", every_error())
async def test_every_error_of_the_tree_arrives_with_its_status_and_text(kind):
    def fail(_payload, _call):
        raise kind("given and wanted")

    async with served(fail) as channel:
        error = await failure(channel)
    assert error.code() is STATUS_CODES[kind.status]
    assert error.code().value[0] == kind.status
    assert error.details() == "given and wanted"


def test_grpc_knows_every_status():
    assert set(STATUS_CODES) == set(Status)


async def test_a_long_text_is_cut_and_put_on_one_line():
    def fail(_payload, _call):
        raise NotFound("first\nsecond " + "x" * 100_000)

    async with served(fail) as channel:
        error = await failure(channel)
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details().startswith("first second xxx")
    assert len(error.details()) == MAX_DETAILS


async def test_a_port_is_never_shared_with_a_second_server():
    first, second = (grpc.aio.server(options=channel_options(SETTINGS)) for _ in range(2))
    port = first.add_insecure_port("127.0.0.1:0")
    await first.start()
    with pytest.raises(RuntimeError, match="Failed to bind"):
        second.add_insecure_port(f"127.0.0.1:{port}")
    await first.stop(None)
