"""The adapter for grpcio, over a service whose behaviour the test writes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from runtime import errors
from runtime.errors import BackendUnavailable, InvalidInput, NotFound, Status, TwinportError
from runtime.observe.failures import FailureLog
from runtime.settings import ServerSettings
from runtime.transports.base import MAX_DETAILS
from runtime.transports.grpcio import GrpcioTransport
from runtime.transports.grpcio_queue import checked

SETTINGS = ServerSettings(Path("unused"), port=0, state=Path("unused"))
STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
SECONDS = 30
ROOT = Path(__file__).parents[3]


class Stub:
    """A servicer with one method of each kind; both do what ``behave`` does."""

    unary_methods = ("/a.B/Unary",)
    stream_methods = ("/a.B/Stream",)
    busy = False

    def __init__(self, behave):
        self.behave = behave
        self.failures = FailureLog()
        self.ended = asyncio.Event()

    async def unary(self, _method, payload, call):
        try:
            answer = self.behave(payload, call)
            return await answer if asyncio.iscoroutine(answer) else answer
        finally:
            self.ended.set()

    async def stream(self, _method, payloads, call):
        try:
            async for payload in payloads:
                answer = self.behave(payload, call)
                yield await answer if asyncio.iscoroutine(answer) else answer
        finally:
            self.ended.set()


@asynccontextmanager
async def served(behave, **options):
    servicer = Stub(behave)
    transport = GrpcioTransport(servicer, SETTINGS)
    address = await transport.start()
    async with grpc.aio.insecure_channel(address, **options) as channel:
        channel.servicer, channel.transport = servicer, transport
        yield channel
    async with asyncio.timeout(SECONDS):
        await transport.stop(1)


def later(seconds):
    """What came, after a while."""

    async def answer(payload, _call):
        await asyncio.sleep(seconds)
        return payload

    return answer


async def failure(channel):
    with pytest.raises(grpc.aio.AioRpcError) as unary:
        await channel.unary_unary("/a.B/Unary")(b"1", timeout=SECONDS)
    with pytest.raises(grpc.aio.AioRpcError) as stream:
        await channel.stream_stream("/a.B/Stream")(iter([b"1"]), timeout=SECONDS).read()
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
        sent = (("key", "value"), ("key-bin", b"\x00\xff"))
        await channel.unary_unary("/a.B/Unary")(b"", timeout=100, metadata=sent)
        await channel.unary_unary("/a.B/Unary")(b"")
    assert before < calls[0].deadline < before + 110
    assert set(sent) <= {tuple(item) for item in calls[0].metadata}
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


async def test_an_error_after_answers_of_a_stream_is_its_status():
    def second_fails(payload, _call):
        if payload == b"2":
            raise NotFound("given and wanted")
        return payload

    async with served(second_fails) as channel:
        stream = channel.stream_stream("/a.B/Stream")(iter([b"1", b"2", b"3"]), timeout=SECONDS)
        assert await stream.read() == b"1"
        assert await stream.code() is grpc.StatusCode.NOT_FOUND
        assert await stream.details() == "given and wanted"


async def test_a_request_without_a_message_is_refused():
    async with served(lambda payload, _call: payload) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.stream_unary("/a.B/Unary")(iter([]), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "without a message" in caught.value.details()


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_what_a_client_gives_up_is_cancelled(kind):
    begun = asyncio.Event()

    async def for_ever(_payload, _call):
        begun.set()
        await asyncio.Event().wait()

    async with served(for_ever) as channel:
        if kind == "unary":
            call = channel.unary_unary("/a.B/Unary")(b"1")
        else:
            call = channel.stream_stream("/a.B/Stream")(iter([b"1"]))
        async with asyncio.timeout(SECONDS):
            await begun.wait()
            call.cancel()
            await channel.servicer.ended.wait()


async def test_a_handler_that_gives_up_by_itself_leaves_nobody_waiting():
    async def give_up(_payload, _call):
        raise asyncio.CancelledError

    async with served(give_up) as channel:
        error = await failure(channel)
    assert error.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_whose_message_does_not_come_holds_up_no_end():
    never = asyncio.Event()

    async def nothing():
        await never.wait()
        yield b""

    async with served(lambda payload, _call: payload) as channel:
        call = channel.stream_unary("/a.B/Unary")(nothing())
        # What comes later on the same connection is answered later.
        for _ in range(3):
            await channel.unary_unary("/a.B/Unary")(b"1")
        async with asyncio.timeout(SECONDS):
            await channel.transport.stop(100 * SECONDS)
        assert await call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


async def test_a_second_stop_does_nothing():
    transport = GrpcioTransport(Stub(lambda payload, _call: payload), SETTINGS)
    await transport.stop(1)
    await transport.start()
    await transport.stop(1)
    await transport.stop(1)


STUBBORN = """
import asyncio, sys
from pathlib import Path
import grpc
from runtime.settings import ServerSettings
from runtime.transports.grpcio import GrpcioTransport

class Stubborn:
    unary_methods, stream_methods, busy = ("/a.B/Unary",), ("/a.B/Stream",), False
    def __init__(self):
        self.begun, self.go_on, self.ended = (asyncio.Event() for _ in range(3))
    async def stay(self):
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await self.go_on.wait()
    async def unary(self, *_):
        await self.stay()
        self.ended.set()
        return b"late"
    async def stream(self, _method, payloads, _call):
        await self.stay()
        self.ended.set()
        yield b"late"
        async for payload in payloads:
            yield payload

async def main():
    servicer = Stubborn()
    transport = GrpcioTransport(servicer, ServerSettings(Path("u"), port=0, state=Path("u")))
    async with grpc.aio.insecure_channel(await transport.start()) as channel:
        if sys.argv[1] == "unary":
            call = channel.unary_unary("/a.B/Unary")(b"1")
        else:
            call = channel.stream_stream("/a.B/Stream")(iter([b"1"]))
        await servicer.begun.wait()
        await transport.stop(0.1)
        servicer.go_on.set()
        await servicer.ended.wait()
        await asyncio.sleep(0)
        call.cancel()
    print("alive")

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_who_answers_after_the_end_of_the_server_does_not_end_the_process(kind):
    # The core aborts when it is given something then, so it is tried in another process.
    done = subprocess.run(
        [sys.executable, "-c", STUBBORN, kind], cwd=ROOT, capture_output=True, text=True,
        timeout=2 * SECONDS,
    )  # fmt: skip
    assert done.stdout == "alive\n", done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("where", ["loop", "thread"])
async def test_the_server_stays_awake_when_looking_for_events_fails_once(where, caplog):
    async with served(lambda payload, _call: payload) as channel:
        ask = channel.unary_unary("/a.B/Unary")
        await ask(b"1")
        pump = channel.transport._pump
        right, failed = pump.queue, threading.Event()

        class Failing:
            def poll(self, *deadline):
                if bool(deadline) == (where == "loop") and not failed.is_set():
                    failed.set()
                    raise MemoryError
                return right.poll(*deadline)

        pump.queue = Failing()
        async with asyncio.timeout(SECONDS):
            while not failed.is_set():
                assert await ask(b"1") == b"1"
                await asyncio.sleep(0.1)
        assert await ask(b"1", timeout=SECONDS) == b"1"
        pump.queue = right
    assert "not taken" in caplog.text


async def test_calls_whose_clients_leave_at_any_moment_leave_nothing_behind():
    async with served(later(0.001)) as channel:
        ask = channel.unary_unary("/a.B/Unary")
        for round_ in range(20):
            calls = [ask(b"%d" % number) for number in range(100)]
            await asyncio.sleep(0.0002 * round_)
            for call in calls[::2]:
                call.cancel()
            kept = await asyncio.gather(*calls[1::2])
            assert kept == [b"%d" % number for number in range(1, 100, 2)]
        async with asyncio.timeout(SECONDS):
            await channel.transport._calls.all_left()


async def test_thousands_of_calls_at_one_time_get_their_own_answers():
    async with served(later(0)) as channel:
        ask = channel.unary_unary("/a.B/Unary")
        payloads = [b"%d" % number for number in range(5000)]
        assert await asyncio.gather(*map(ask, payloads)) == payloads


async def test_other_threads_and_timers_are_heard_while_nobody_asks():
    async with served(lambda payload, _call: payload) as channel:
        await channel.unary_unary("/a.B/Unary")(b"")
        for _ in range(3):
            async with asyncio.timeout(SECONDS):
                await asyncio.to_thread(time.sleep, 0.01)
                await asyncio.sleep(0.1)
            assert await channel.unary_unary("/a.B/Unary")(b"1") == b"1"


async def test_nothing_of_a_server_is_left_when_it_has_stopped():
    before = {thread for thread in threading.enumerate() if thread.name == "grpcio-events"}
    async with served(lambda payload, _call: payload) as channel:
        await channel.unary_unary("/a.B/Unary")(b"")
    async with asyncio.timeout(SECONDS):
        while {t for t in threading.enumerate() if t.name == "grpcio-events"} - before:
            await asyncio.sleep(0.01)


async def test_a_defect_in_one_event_does_not_end_the_others(caplog):
    async with served(lambda payload, _call: payload) as channel:
        pump = channel.transport._pump

        def defect(_event):
            raise ZeroDivisionError

        pump._take(SimpleNamespace(completion_type=None, tag=defect))
        assert await channel.unary_unary("/a.B/Unary")(b"1", timeout=SECONDS) == b"1"
    assert "was not handled" in caplog.text


async def test_a_port_is_never_shared_with_a_second_server():
    servicer = Stub(lambda payload, _call: payload)
    first = GrpcioTransport(servicer, SETTINGS)
    host, port = (await first.start()).rsplit(":", 1)
    taken = ServerSettings(Path("unused"), host=host, port=int(port), state=Path("unused"))
    with pytest.raises(InvalidInput, match="in use"):
        await GrpcioTransport(servicer, taken).start()
    await first.stop(1)


def test_another_kind_of_grpcio_is_refused_in_one_line():
    with pytest.raises(
        BackendUnavailable, match=r"^grpcio [\d.]+ lacks Call.start_server_batch, .*Server"
    ):
        checked(SimpleNamespace())
