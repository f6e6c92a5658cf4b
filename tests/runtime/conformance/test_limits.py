"""Sizes, deadlines, cancellation, compression, the same over every transport."""

from __future__ import annotations

import asyncio

import grpc
import numpy as np
import pytest

from runtime.client import Client
from runtime.client_async import AsyncClient
from runtime.client_steps import Retry
from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import ResourceExhausted

FOREVER = 10**9
CODES = grpc.StatusCode
MB = 2**20


def text_request(size):
    text = np.array([b"x" * size], dtype=object)
    return request_from_arrays({"text": text}, model="strings").SerializeToString()


def test_20_mb_go_there_and_back(channel, raw, parsed):
    payload = raw(channel, "ModelInfer")(text_request(20 * MB))
    (text,) = arrays_from_response(parsed("ModelInfer", payload))["same"]
    assert text == b"x" * (20 * MB)


def test_a_message_beyond_the_limit_is_refused_and_the_connection_lives_on(channel, raw, failure):
    code, _ = failure(raw(channel, "ModelInfer"), text_request(25 * MB))
    assert code is CODES.RESOURCE_EXHAUSTED
    assert raw(channel, "ServerLive")(b"")


@pytest.fixture(scope="module")
def narrow_server(transport, start, toy_writer, tmp_path_factory):
    """A server whose messages have room for 15 rows of a model that takes 8."""
    folder = tmp_path_factory.mktemp("wide")
    toy_writer(folder, "wide")
    return start(transport, "--max-message-mb", "1", repository=folder)


def infer_sync(url, batches):
    with Client(url, retry=Retry(attempts=1)) as client:
        return [client.infer("wide", {"x": x}) for x in batches]


def infer_async(url, batches):
    async def infer():
        async with AsyncClient(url, retry=Retry(attempts=1)) as client:
            return [await client.infer("wide", {"x": x}) for x in batches]

    return asyncio.run(infer())


@pytest.mark.parametrize("infer", [infer_sync, infer_async])
@pytest.mark.parametrize("before", [None, 1, 9])
def test_a_batch_over_the_limit_comes_back_whole_whatever_was_sent_before(
    narrow_server, toys, infer, before
):
    toy = toys["wide"]
    x = np.tile(toy.samples["x"], (2, 1))
    batches = [x] if before is None else [x[:before], x]
    *_, answer = infer(narrow_server.address, batches)
    np.testing.assert_allclose(answer["y"], toy.compute({"x": x})["y"], atol=1e-4)


@pytest.mark.parametrize("infer", [infer_sync, infer_async])
def test_a_row_over_the_limit_is_refused_as_it_is(narrow_server, infer):
    with pytest.raises(ResourceExhausted, match=r"larger than max|is too long"):
        infer(narrow_server.address, [np.zeros((3, 2**19), np.float32)])


@pytest.mark.parametrize("how", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests_are_read(channel, raw, parsed, how):
    payload = raw(channel, "ModelInfer")(text_request(MB), compression=how)
    (text,) = arrays_from_response(parsed("ModelInfer", payload))["same"]
    assert text == b"x" * MB


def test_a_small_message_that_grows_beyond_the_limit_is_refused(channel, raw, failure):
    payload = text_request(25 * MB)
    code, _ = failure(raw(channel, "ModelInfer"), payload, compression=grpc.Compression.Gzip)
    assert code is CODES.RESOURCE_EXHAUSTED


def test_a_client_that_sends_faster_than_it_is_answered_loses_nothing(channel):
    """More is sent than any buffer on the way holds, before an answer is looked at."""
    count, request = 40, text_request(MB)
    call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    answers = call(iter([request] * count))
    assert sum(len(answer) > MB for answer in answers) == count


def test_thousands_of_requests_at_once_on_one_connection_are_all_answered(channel, raw, parsed):
    xs = np.arange(4000, dtype=np.float32)[:, None, None] * np.ones((1, 4), np.float32)
    sent = [request_from_arrays({"x": x}, model="linear", request_id=str(x[0, 0])) for x in xs]
    infer = raw(channel, "ModelInfer")
    futures = [infer.future(request.SerializeToString()) for request in sent]
    for request, future in zip(sent, futures, strict=True):
        assert parsed("ModelInfer", future.result()).id == request.id


def test_a_client_that_gives_up_often_keeps_its_connection(channel, raw, slow_call):
    slow_call(channel, 2_000, "slow_left").result()  # now it counts as slow
    first = slow_call(channel, 20_000, "slow_left")
    x = np.ones((1, 256), np.float32)
    request = request_from_arrays({"x": x, "times": np.array([1])}, model="slow_left")
    infer = raw(channel, "ModelInfer")
    others = [infer.future(request.SerializeToString()) for _ in range(700)]
    raw(channel, "ServerLive")(b"")  # all have arrived
    for other in others:
        other.cancel()
    raw(channel, "ServerLive")(b"")
    assert first.result()


def test_a_deadline_holds_and_what_waits_behind_it_is_answered(channel, raw, slow_call, failure):
    slow_call(channel, 2_000, "slow_late").result()  # now it counts as slow
    first = slow_call(channel, 20_000, "slow_late")
    late = slow_call(channel, 100_000, "slow_late", timeout=0.2)
    code, _ = failure(late.result)
    assert code is CODES.DEADLINE_EXCEEDED
    first.result()
    slow_call(channel, 1, "slow_late").result(timeout=60)


def test_clients_that_gave_up_do_not_hold_the_others_up(channel, slow_call):
    slow_call(channel, 2_000, "slow_gone").result()  # now it counts as slow
    first = slow_call(channel, 100_000, "slow_gone")
    waiting = [slow_call(channel, FOREVER, "slow_gone") for _ in range(3)]
    for call in waiting:
        call.cancel()
    first.result()
    slow_call(channel, 1, "slow_gone").result(timeout=60)
