"""Whether the service and its models are ready: asked, streamed, and while it drains."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
from grpc_health.v1 import health_pb2

from protos import SERVICE
from runtime.backends.ort import OrtBackend
from runtime.codec import request_from_arrays
from runtime.errors import Status
from runtime.servicer import Call

REQUEST = request_from_arrays({"x": np.zeros((2, 4), np.float32)}, model="linear")
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(servicer, service=""):
    payload = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    answer = await servicer.unary("/grpc.health.v1.Health/Check", payload, Call())
    return health_pb2.HealthCheckResponse.FromString(answer).status


async def payloads(*messages):
    for message in messages:
        yield message


async def test_readiness_is_told_and_an_unknown_model_is_not_ready(servicer, ask, status_of):
    assert (await ask(servicer, "ServerLive")).live
    assert (await ask(servicer, "ServerReady")).ready
    assert (await ask(servicer, "ModelReady", name="linear")).ready
    assert (await ask(servicer, "ModelReady", name="linear", version="1")).ready
    assert not (await ask(servicer, "ModelReady", name="linear", version="3")).ready
    assert not (await ask(servicer, "ModelReady", name="other")).ready
    status, _ = await status_of(ask(servicer, "ModelReady", name="linear", version="x"))
    assert status is Status.INVALID_ARGUMENT


async def test_nothing_is_ready_before_it_is_loaded(write_toy, open_service, ask):
    write_toy("linear")
    servicer = await open_service(load=False)
    assert not (await ask(servicer, "ServerReady")).ready
    assert not (await ask(servicer, "ModelReady", name="linear")).ready
    assert await health(servicer) == NOT_SERVING


async def test_health_knows_the_server_the_service_and_each_model(
    write_toy, open_service, status_of
):
    write_toy("linear")
    write_toy("linear", name="unproved", manifest=False)
    servicer = await open_service()
    assert await health(servicer) == SERVING
    assert await health(servicer, SERVICE) == SERVING
    assert await health(servicer, "linear") == SERVING
    assert await health(servicer, "unproved") == NOT_SERVING
    status, text = await status_of(health(servicer, "other"))
    assert status is Status.NOT_FOUND
    assert "'other' is not known" in text


def watch(servicer, service=""):
    payload = health_pb2.HealthCheckRequest(service=service).SerializeToString()
    stream = servicer.stream("/grpc.health.v1.Health/Watch", payloads(payload), Call())

    async def statuses():
        async for answer in stream:
            yield health_pb2.HealthCheckResponse.FromString(answer).status

    return statuses()


async def test_a_watcher_sees_loading_ready_and_drain_and_then_the_end(write_toy, open_service):
    write_toy("linear")
    servicer = await open_service(load=False)
    watched = watch(servicer)
    assert await anext(watched) == NOT_SERVING
    following = asyncio.create_task(anext(watched))
    await servicer._repository.load()
    assert await following == SERVING
    servicer.begin_drain()
    assert [status async for status in watched] == [NOT_SERVING]


async def test_a_watcher_of_an_unknown_service_is_told_so_and_waits(servicer):
    watched = watch(servicer, "other")
    assert await anext(watched) == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_malformed_bytes_in_a_stream_are_the_clients_error(servicer, status_of):
    for method in ("/grpc.health.v1.Health/Watch",
                   "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):  # fmt: skip
        stream = servicer.stream(method, payloads(b"\xff\xff"), Call())
        status, _ = await status_of(anext(stream))
        assert status is Status.INVALID_ARGUMENT


async def test_draining_lets_what_runs_finish_and_refuses_what_comes(
    write_toy, open_service, monkeypatch, ask, status_of
):
    write_toy("linear")
    servicer = await open_service()
    gate, sound = threading.Event(), OrtBackend.infer

    def waiting(*arguments):
        assert gate.wait(60)
        return sound(*arguments)

    monkeypatch.setattr(OrtBackend, "infer", waiting)
    running = asyncio.create_task(ask(servicer, "ModelInfer", REQUEST))
    await asyncio.sleep(0)
    servicer.begin_drain()
    status, text = await status_of(ask(servicer, "ModelInfer", REQUEST))
    assert status is Status.UNAVAILABLE
    assert "shutting down" in text
    assert not (await ask(servicer, "ServerReady")).ready
    assert not (await ask(servicer, "ModelReady", name="linear")).ready
    assert (await ask(servicer, "ServerLive")).live
    assert await health(servicer) == NOT_SERVING
    assert not await servicer.wait_idle(0.01), "others came and went, one still runs"
    gate.set()
    assert (await running).model_name == "linear"
    assert await servicer.wait_idle(60)
