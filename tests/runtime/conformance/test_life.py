"""Drain, end and TLS, the same over every transport; each test has a server of its own."""

from __future__ import annotations

import asyncio
import http.client
import re
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from contextlib import closing

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos import SERVICE
from runtime.codec import request_from_arrays

FOREVER = 10**9
OK = grpc.StatusCode.OK
SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)


def test_sigterm_lets_running_requests_finish_and_tells_watchers(
    start, transport, raw, slow_call, failure, parsed
):
    server = start(transport)
    with grpc.insecure_channel(server.address) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == SERVING
        running = slow_call(channel, 50_000)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
        assert next(watched).status == NOT_SERVING
        assert not running.done()
        code, text = failure(slow_call(channel, 1).result)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in text
        assert parsed("ModelInfer", running.result()).model_name == "slow"
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_a_large_answer_still_leaves_while_the_server_ends(start, transport, raw, parsed):
    server = start(transport)
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        text = np.array([b"x" * 2**24] * 2, dtype=object)
        request = request_from_arrays({"text": text}, model="strings").SerializeToString()
        raw(channel, "ServerLive")(b"")
        futures = [raw(channel, "ModelInfer").future(request) for _ in range(2)]
        while not answered(server):
            pass
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
        ended = [
            (future.code(), len(future.result() if future.code() is OK else b""))
            for future in futures
        ]
    # A request that comes too late is refused; none gets half an answer.
    assert any(code is OK for code, _ in ended)
    assert all(size > 2**25 for code, size in ended if code is OK)
    assert {code for code, _ in ended} <= {OK, grpc.StatusCode.UNAVAILABLE}
    assert server.process.wait(60) == 0


def answered(server):
    """Requests to the model of texts that were computed, by the metrics."""
    with urllib.request.urlopen(server.metrics) as answer:
        text = answer.read().decode()
    found = re.search(r'nv_inference_request_success[^\n]*"strings"[^\n]* ([0-9.]+)\n', text)
    return float(found[1]) if found else 0.0


async def test_while_a_flood_comes_in_each_call_is_answered_or_told_to_go_elsewhere(
    start, transport
):
    server = start(transport)
    request = request_from_arrays({"x": np.ones((1, 4), np.float32)}, model="linear")
    payload = request.SerializeToString()
    ends = Counter()
    enough = asyncio.Event()

    async def keep_asking(channel):
        """Until it is refused; whether the server goes down or the call fails is its status."""
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        while True:
            try:
                await infer(payload, timeout=120)
            except grpc.aio.AioRpcError as error:
                ends[error.code()] += 1
                return
            ends[OK] += 1
            if ends[OK] > 1000:
                enough.set()

    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(server.address, options=own) for _ in range(4)]
    clients = [asyncio.create_task(keep_asking(channel)) for channel in channels * 100]
    await enough.wait()
    server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*clients)
    for channel in channels:
        await channel.close()
    assert {code: count for code, count in ends.items() if code is not OK} == {
        grpc.StatusCode.UNAVAILABLE: 400
    }
    assert await asyncio.to_thread(server.process.wait, 60) == 0
    assert "Traceback" not in server.log.read_text()


def test_a_request_that_outlasts_the_drain_is_cut_off(start, transport, slow_call, failure):
    server = start(transport, "--drain-seconds", "0.1")
    with grpc.insecure_channel(server.address) as channel:
        running = slow_call(channel, FOREVER)
        assert server.stop() == 0
        code, _ = failure(running.result)
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert "cut off" in server.log.read_text()


def test_an_open_stream_ends_with_the_server(start, transport):
    server = start(transport)
    with grpc.insecure_channel(server.address) as channel:
        more = threading.Event()
        request = request_from_arrays({"x": np.ones((1, 4), np.float32)}, model="linear")

        def ask():
            yield request.SerializeToString()
            more.wait()

        stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(ask())
        next(stream)
        assert server.stop(signal.SIGINT) == 0
        more.set()
    with closing(socket.socket()) as probe:
        host, port = server.address.split(":")
        assert probe.connect_ex((host, int(port))) != 0


def test_signals_that_come_while_it_ends_change_nothing(start, transport):
    server = start(transport)
    while server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert server.process.returncode == 0


def test_a_client_of_http_1_gets_a_sane_answer(servers):
    host, port = servers("envoy").address.split(":")
    for method, headers, status in (
        ("GET", {}, 415),
        ("POST", {"content-type": "application/grpc"}, 505),
    ):
        with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as client:
            client.request(method, "/", b"", headers)
            answer = client.getresponse()
            assert answer.status == status
            assert b"gRPC" in answer.read()
