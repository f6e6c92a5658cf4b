"""The adapter for ASGI, over a service whose behaviour the test writes."""

from __future__ import annotations

import asyncio
import gzip
import time
from contextlib import suppress

import pytest

from runtime import errors
from runtime.errors import NotFound, Status, TwinportError
from runtime.transports.asgi import LARGE, LOOKED_AT, GrpcApp
from runtime.transports.base import MAX_DETAILS
from runtime.transports.wire import framed

BOTH = pytest.mark.parametrize("path", ["/a.B/Unary", "/a.B/Stream"])


def echo(payload, _call):
    return payload + b"\xff"


@BOTH
async def test_bytes_go_there_and_back_unread(exchange, path):
    got = await exchange(echo, path=path, parts=[framed(b"\xfe")])
    assert got.body == framed(b"\xfe\xff")
    assert got.status == Status.OK
    assert got.sent[0]["type"] == "http.response.start"
    assert got.sent[0]["status"] == 200


@BOTH
@pytest.mark.parametrize("size", [1, 3, 5, 7])
async def test_a_message_may_come_in_pieces_of_any_size(exchange, path, size):
    whole = framed(b"a message")
    parts = [whole[i : i + size] for i in range(0, len(whole), size)]
    got = await exchange(echo, path=path, parts=parts)
    assert got.body == framed(b"a message\xff")


@BOTH
async def test_an_empty_message_is_a_message(exchange, path):
    for parts in ([framed(b"")], [b"\0\0\0", b"\0\0"], [framed(b""), b""]):
        assert (await exchange(echo, path=path, parts=parts)).body == framed(b"\xff")


async def test_the_messages_of_a_stream_keep_their_bounds(exchange):
    whole = framed(b"1") + framed(b"") + framed(b"333")
    for size in (1, 4, 100):
        parts = [whole[i : i + size] for i in range(0, len(whole), size)]
        got = await exchange(echo, path="/a.B/Stream", parts=parts)
        assert got.body == framed(b"1\xff") + framed(b"\xff") + framed(b"333\xff")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ([b""], "ends after 0 bytes"),
        ([b"\0\0\0"], "ends after 3 bytes"),
        ([framed(b"abc")[:-1]], "ends after 7 bytes"),
        ([framed(b"a") + framed(b"b")], "more than one message"),
    ],
)
async def test_a_call_with_one_message_takes_exactly_one(exchange, parts, text):
    got = await exchange(echo, parts=parts)
    assert got.status == Status.INVALID_ARGUMENT
    assert text in got.text


async def test_a_stream_that_ends_within_a_message_is_the_clients_error(exchange):
    got = await exchange(echo, path="/a.B/Stream", parts=[framed(b"a"), b"\0\0"])
    assert got.status == Status.INVALID_ARGUMENT
    assert "ends within a message" in got.text


async def test_what_is_wrong_with_a_stream_is_said_even_by_a_service_that_does_not_mind(
    exchange_type, stub
):
    class Careless(stub):
        async def stream(self, _method, payloads, _call):
            with suppress(TwinportError):
                async for payload in payloads:
                    yield payload

    request = exchange_type(path="/a.B/Stream", parts=[framed(b"a"), b"\0\0"])
    got = await request.run(GrpcApp(Careless(echo), 1000))
    assert got.body == framed(b"a")
    assert got.status == Status.INVALID_ARGUMENT


@BOTH
async def test_a_message_beyond_the_limit_is_refused_by_its_length_alone(exchange, path):
    assert (await exchange(echo, path=path, parts=[framed(b"x" * 999)])).status == Status.OK
    got = await exchange(echo, path=path, parts=[b"\0\0\0\x03\xe9"], ends=False)
    assert got.status == Status.RESOURCE_EXHAUSTED
    assert "1001 bytes" in got.text


@BOTH
async def test_an_answer_beyond_the_limit_is_not_sent(exchange, path):
    got = await exchange(lambda *_: b"x" * 1001, path=path, parts=[framed(b"")])
    assert got.status == Status.RESOURCE_EXHAUSTED
    assert got.body == b""


async def test_a_large_answer_leaves_in_parts(exchange):
    answer = bytes(range(256)) * (LARGE // 100)
    got = await exchange(lambda *_: answer, limit=2**30, parts=[framed(b"")])
    assert got.body == framed(answer)
    assert max(len(event.get("body", b"")) for event in got.sent) <= LARGE
    assert got.status == Status.OK


@BOTH
async def test_what_a_client_compresses_is_answered_compressed(exchange, path):
    packed = gzip.compress(b"abc")
    headers = {b"grpc-encoding": b"gzip", b"grpc-accept-encoding": b"identity, gzip"}
    message = b"\1" + len(packed).to_bytes(4, "big") + packed
    got = await exchange(echo, path=path, parts=[message], headers=headers)
    assert got.answer_headers[b"grpc-encoding"] == b"gzip"
    assert got.body[0] == 1
    assert gzip.decompress(got.body[5:]) == b"abc\xff"


@BOTH
async def test_answers_are_compressed_where_it_is_set_and_the_client_takes_it(exchange, path):
    takes = {b"grpc-accept-encoding": b"gzip"}
    for headers, set_so, flag in (({}, True, 0), (takes, True, 1), (takes, False, 0)):
        got = await exchange(echo, path=path, parts=[framed(b"")], headers=headers, compress=set_so)
        assert got.body[0] == flag


async def test_an_unknown_compression_is_unimplemented_and_the_known_ones_are_named(exchange):
    got = await exchange(echo, parts=[framed(b"")], headers={b"grpc-encoding": b"snappy"})
    assert got.status == Status.UNIMPLEMENTED
    assert got.answer_headers[b"grpc-accept-encoding"] == b"identity, deflate, gzip"


@BOTH
async def test_deadline_and_metadata_reach_the_service(exchange, path):
    calls = []

    def note(_payload, call):
        calls.append(call)
        return b""

    before = time.monotonic()
    headers = {b"grpc-timeout": b"100S", b"key": b"value", b"raw-bin": b"/w"}
    await exchange(note, path=path, parts=[framed(b"")], headers=headers)
    await exchange(note, path=path, parts=[framed(b"")])
    assert before + 100 <= calls[0].deadline < before + 110
    assert calls[0].metadata == (("key", "value"), ("raw-bin", b"\xff"))
    assert calls[1].deadline is None
    assert calls[1].metadata == ()


@BOTH
async def test_a_deadline_ends_what_runs(exchange, path):
    cancelled = asyncio.Event()

    async def forever(*_):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    got = await exchange(
        lambda *_: forever(), path=path, parts=[framed(b"")], headers={b"grpc-timeout": b"20m"}
    )
    assert got.status == Status.DEADLINE_EXCEEDED
    assert cancelled.is_set()


@BOTH
@pytest.mark.parametrize("ends", [True, False])
async def test_a_client_that_leaves_cancels_its_request(exchange_type, stub, path, ends):
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def forever():
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    app = GrpcApp(stub(lambda *_: forever()), 1000)
    request = exchange_type(path=path, parts=[framed(b"")], ends=ends)
    running = asyncio.create_task(request.run(app))
    await begun.wait()
    assert app.running == 1
    request.gone.set()
    # Waiting with wait_for would cancel it, which is what is to be seen.
    done, _ = await asyncio.wait({running}, timeout=20)
    assert done
    assert cancelled.is_set()
    assert app.running == 0
    assert request.sent == []


async def test_clients_that_never_end_their_requests_hide_no_other_that_leaves(exchange_type, stub):
    begun = asyncio.Queue()

    async def forever():
        begun.put_nowait(None)
        await asyncio.Event().wait()

    app = GrpcApp(stub(lambda *_: forever()), 1000)
    requests = [exchange_type(parts=[framed(b"")], ends=False) for _ in range(2 * LOOKED_AT)]
    requests.append(exchange_type(parts=[framed(b"")]))
    running = [asyncio.create_task(request.run(app)) for request in requests]
    for _ in requests:
        await begun.get()
    requests[-1].gone.set()
    done, _ = await asyncio.wait({running[-1]}, timeout=20)
    assert done
    for request in requests:
        request.gone.set()
    await asyncio.gather(*running)


async def test_where_many_clients_leave_at_once_more_are_looked_after_at_a_time(
    exchange_type, stub, monkeypatch
):
    begun, looks = asyncio.Queue(), []

    async def forever():
        begun.put_nowait(1)
        await asyncio.Event().wait()

    def noted(app, most, original=GrpcApp._look_at):
        looks.append(original(app, most))
        return looks[-1]

    monkeypatch.setattr(GrpcApp, "_look_at", noted)
    app = GrpcApp(stub(lambda *_: forever()), 1000)
    requests = [exchange_type(parts=[framed(b"")]) for _ in range(31 * LOOKED_AT)]
    running = [asyncio.create_task(request.run(app)) for request in requests]
    for _ in requests:
        await begun.get()
    looks.clear()
    for request in requests:
        request.gone.set()
    await asyncio.wait(running, timeout=60)
    assert all(task.done() for task in running)
    # 31 times without it, 5 with it where nothing is slow.
    assert len([count for count in looks if count]) < 12


async def test_a_slow_service_does_not_let_a_client_fill_the_memory(exchange_type, stub):
    blocked = asyncio.Event()

    async def wait(*_):
        await blocked.wait()
        return b""

    request = exchange_type(path="/a.B/Stream", parts=[framed(b"x" * 900)] * 5000)
    running = asyncio.create_task(request.run(GrpcApp(stub(lambda *_: wait()), 1000)))
    left = -1
    while left != len(request.parts):
        left = len(request.parts)
        for _ in range(10):
            await asyncio.sleep(0)
    assert left > 4900
    blocked.set()
    await running
    assert len(request.body) == 5000 * 5


def every_error():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    return [kind for kind in kinds if issubclass(kind, TwinportError)]


@BOTH
@pytest.mark.parametrize("kind", every_error())
async def test_every_error_of_the_tree_arrives_with_its_status_and_text(exchange, path, kind):
    def fail(_payload, _call):
        raise kind("given 100% größe\nand wanted")

    got = await exchange(fail, path=path, parts=[framed(b"")])
    assert got.status == kind.status
    assert got.text == "given 100% größe and wanted"
    assert got.answer_headers[b"grpc-message"] == b"given 100%25 gr%C3%B6%C3%9Fe and wanted"
    # Before any message the status travels as headers.
    assert "trailers" not in got.sent[0]


async def test_an_error_after_messages_comes_behind_them(exchange):
    def second_fails(payload, _call):
        if payload == b"2":
            raise NotFound("gone")
        return payload

    got = await exchange(second_fails, path="/a.B/Stream", parts=[framed(b"1") + framed(b"2")])
    assert got.body == framed(b"1")
    assert got.sent[-1]["type"] == "http.response.trailers"
    assert (got.status, got.text) == (Status.NOT_FOUND, "gone")


@BOTH
async def test_metadata_that_cannot_be_read_is_the_clients_error(exchange, path):
    got = await exchange(echo, path=path, parts=[framed(b"")], headers={b"x-bin": b"!!!"})
    assert got.status == Status.INVALID_ARGUMENT
    assert "'x-bin' is no base64" in got.text


async def test_a_stream_that_is_too_late_is_counted(exchange_type, stub):
    servicer = stub(lambda *_: asyncio.Event().wait())
    request = exchange_type(
        path="/a.B/Stream", parts=[framed(b"")], headers={b"grpc-timeout": b"20m"}
    )
    await request.run(GrpcApp(servicer, 1000))
    assert servicer.failures.counts == {"Stream DEADLINE_EXCEEDED": 1}


async def test_methods_that_are_made_up_share_one_counter(exchange_type, stub):
    servicer = stub(echo)
    for number in range(30):
        await exchange_type(path=f"/a.B/{number} {number}").run(GrpcApp(servicer, 1000))
    assert servicer.failures.counts == {"other UNIMPLEMENTED": 30}


async def test_a_long_text_is_cut_and_put_on_one_line(exchange):
    def fail(_payload, _call):
        raise NotFound("first\nsecond " + "x" * 100_000)

    got = await exchange(fail, parts=[framed(b"")])
    assert got.text.startswith("first second xxx")
    assert len(got.text) == MAX_DETAILS


async def test_what_the_server_lacks_is_unimplemented(exchange):
    got = await exchange(echo, path="/a.B/Other", parts=[framed(b"")])
    assert got.status == Status.UNIMPLEMENTED
    assert "/a.B/Other is not served" in got.text


@pytest.mark.parametrize(
    ("headers", "version", "status", "text"),
    [
        ({b"content-type": b"application/json"}, "2", 415, b"wanted content-type application/grpc"),
        ({b"content-type": b"application/grpc-web"}, "2", 415, b"application/grpc"),
        ({b"content-type": b"text/html"}, "1.1", 415, b"gRPC server"),
        ({}, "1.1", 505, b"HTTP/2"),
        ({b"te": b""}, "2", 400, b"te: trailers"),
    ],
)
async def test_what_is_no_grpc_gets_an_answer_of_http(exchange, headers, version, status, text):
    got = await exchange(echo, parts=[framed(b"")], headers=headers, version=version)
    assert got.sent[0]["status"] == status
    assert text in got.body


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc; charset=utf-8"])
async def test_grpc_may_name_what_its_messages_are(exchange, kind):
    got = await exchange(echo, parts=[framed(b"")], headers={b"content-type": kind})
    assert got.status == Status.OK
