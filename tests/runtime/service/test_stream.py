"""Many requests on one stream: order, company, errors, limits, the end."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import numpy as np
import pytest

from protos import SERVICE, ModelStreamInferResponse
from runtime.backends.ort import OrtBackend
from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import NotFound, Unavailable
from runtime.service.stream import answered_in_order
from runtime.servicer import Call

METHOD = f"/{SERVICE}/ModelStreamInfer"


def request_of(value=0.0, **changes):
    array = np.full((1, 4), value, np.float32)
    return request_from_arrays({"x": array}, **{"model": "linear", **changes})


async def sent(*requests):
    for request in requests:
        yield request if isinstance(request, bytes) else request.SerializeToString()


class Client:
    """Sends when it is told to and never closes its side of its own accord."""

    def __init__(self):
        self.queue = asyncio.Queue()
        self.taken = 0

    async def payloads(self):
        while (request := await self.queue.get()) is not None:
            self.taken += 1
            yield request.SerializeToString()

    def send(self, request):
        self.queue.put_nowait(request)


def stream(servicer, payloads, call=None):
    return servicer.stream(METHOD, payloads, call or Call())


async def answers(servicer, payloads, call=None):
    return [
        ModelStreamInferResponse.FromString(payload)
        async for payload in stream(servicer, payloads, call)
    ]


async def test_every_request_is_answered_in_order_with_its_id(servicer, toys):
    found = await answers(servicer, sent(*(request_of(n, request_id=str(n)) for n in range(20))))
    assert [item.infer_response.id for item in found] == [str(n) for n in range(20)]
    for number, item in enumerate(found):
        assert item.error_message == ""
        assert item.infer_response.parameters["triton_final_response"].bool_param
        right = toys["linear"].compute({"x": np.full((1, 4), float(number))})["y"]
        answer = arrays_from_response(item.infer_response)["y"]
        np.testing.assert_allclose(answer, right, rtol=1e-5, atol=1e-6)


async def test_an_error_is_the_answer_of_its_request_and_the_stream_goes_on(servicer):
    found = await answers(
        servicer,
        sent(request_of(request_id="a"), request_of(model="other", request_id="b"), b"\xff",
             request_of(request_id="c")),
    )  # fmt: skip
    assert [item.infer_response.id for item in found] == ["a", "b", "", "c"]
    assert [bool(item.error_message) for item in found] == [False, True, True, False]
    assert "'other' is not known" in found[1].error_message
    assert "no inference.ModelInferRequest" in found[2].error_message
    assert servicer.failures.counts == {
        "ModelStreamInfer NOT_FOUND": 1, "ModelStreamInfer INVALID_ARGUMENT": 1,
    }  # fmt: skip


async def test_a_client_may_want_an_error_as_the_status_of_the_stream(servicer):
    call = Call(metadata=(("triton_grpc_error", "true"),))
    with pytest.raises(NotFound, match="'other' is not known"):
        await answers(servicer, sent(request_of(model="other"), request_of()), call)


async def test_a_defect_in_a_stream_keeps_its_text_to_the_log(servicer, monkeypatch, caplog):
    def failing(*_args):
        raise ZeroDivisionError("a secret of the machine")

    monkeypatch.setattr(OrtBackend, "infer", failing)
    (found,) = await answers(servicer, sent(request_of()))
    assert "internal error" in found.error_message
    assert "secret" not in found.error_message
    assert "secret" in caplog.text


async def test_requests_of_one_stream_share_calls_of_a_model_that_was_proved_batchable(
    servicer, monkeypatch
):
    model = servicer._repository.model("linear")
    monkeypatch.setattr(model._batcher, "_settings", type(model._batcher._settings)(max_rows=8))
    await answers(servicer, sent(*(request_of(n) for n in range(32))))
    assert model.statistics.inferences == 32
    assert model.statistics.executions < 16


async def test_no_more_is_read_than_may_be_in_flight():
    release, begun = asyncio.Event(), []

    async def answer(payload):
        begun.append(payload)
        await release.wait()
        return payload

    async def endless():
        number = 0
        while number < 100:
            yield str(number).encode()
            number += 1

    responses = answered_in_order(endless(), answer, asyncio.Event(), limit=4)
    first = asyncio.ensure_future(anext(responses))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(begun) == 4
    release.set()
    assert [await first, *[item async for item in responses]] == [
        str(number).encode() for number in range(100)
    ]


async def test_a_client_that_goes_cancels_what_waits(servicer):
    model = servicer._repository.model("linear")
    stalled = asyncio.Event()

    async def never(*_args, **_kwargs):
        await stalled.wait()

    model._batcher.submit, client = never, Client()
    for number in range(3):
        client.send(request_of(number))
    async with aclosing(stream(servicer, client.payloads())) as responses:
        reading = asyncio.ensure_future(anext(responses))
        while client.taken < 3:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert servicer._running.count == 3
        reading.cancel()
        await asyncio.wait([reading])
    assert servicer._running.count == 0


async def test_a_stream_ends_when_the_server_drains_and_what_was_read_is_answered(servicer):
    client = Client()
    responses = stream(servicer, client.payloads())
    client.send(request_of(request_id="last"))
    following = asyncio.ensure_future(anext(responses))
    while not client.taken:
        await asyncio.sleep(0)
    servicer.begin_drain()
    assert await servicer.wait_idle(60)
    assert ModelStreamInferResponse.FromString(await following).infer_response.id == "last"
    with pytest.raises(Unavailable, match="shutting down"):
        await anext(responses)
    with pytest.raises(Unavailable, match="shutting down"):
        await answers(servicer, sent(request_of()))
