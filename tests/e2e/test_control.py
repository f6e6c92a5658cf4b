"""The real server while models come and go, and while a stream is open."""

from __future__ import annotations

import queue
import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import helper

from protos import METHODS, SERVICE
from runtime.codec import request_from_arrays

X = np.ones((2, 4), np.float32)
LARGE = 4096
"""Rows and columns of a matrix of 64 MiB."""


def call(channel, method, **fields):
    kinds = METHODS[method]
    stub = channel.unary_unary(
        f"/{SERVICE}/{method}", kinds.request.SerializeToString, kinds.response.FromString
    )
    return stub(kinds.request(**fields), timeout=60)


def resident_mb(server):
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def wait_for_status(channel, service, wanted):
    """Follow the health of a service until it is ``wanted``."""
    watched = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=service), timeout=60
    )
    assert any(answer.status == wanted for answer in watched)
    watched.cancel()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system has no /proc")
def test_unloading_gives_the_memory_back(start_server, toy_writer, repository):
    weights = {"w": np.ones((4, LARGE), np.float32), "v": np.ones((LARGE, LARGE), np.float32)}
    toy_writer(
        repository, "linear", manifest=False,
        nodes=[helper.make_node("MatMul", ["x", "w"], ["z"]),
               helper.make_node("MatMul", ["z", "v"], ["y"]),
               helper.make_node("ReduceSum", ["y", "axis"], ["total"], keepdims=0)],
        weights={**weights, "axis": np.array([1])},
    )  # fmt: skip
    server = start_server(repository, "--model-control", "explicit", "--unproved", "allow")
    assert server.lines[-1].endswith("0 of 1 models ready")
    with grpc.insecure_channel(server.address) as channel:
        before = resident_mb(server)
        for _ in range(2):
            call(channel, "RepositoryModelLoad", model_name="linear")
            request = request_from_arrays({"x": X}, model="linear", outputs=["total"])
            kinds = METHODS["ModelInfer"]
            channel.unary_unary(f"/{SERVICE}/ModelInfer", kinds.request.SerializeToString)(request)
            loaded = resident_mb(server)
            assert loaded > before + 60
            call(channel, "RepositoryModelUnload", model_name="linear")
            # ONNX Runtime itself came in with the first model and stays.
            assert resident_mb(server) < loaded - 60


def test_the_folder_is_followed(start_server, toy_writer, repository):
    server = start_server(repository, "--model-control", "poll", "--poll-seconds", "0.05")
    with grpc.insecure_channel(server.address) as channel:
        assert call(channel, "ServerReady").ready
        toy_writer(repository, "linear")
        wait_for_status(channel, "linear", health_pb2.HealthCheckResponse.SERVING)
        shutil.rmtree(repository / "linear")
        wait_for_status(channel, "linear", health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
    assert server.stop() == 0


def test_an_open_stream_is_answered_and_ended_when_the_server_drains(
    start_server, toy_writer, repository
):
    toy_writer(repository, "linear")
    server = start_server(repository)
    requests: queue.Queue = queue.Queue()
    kinds = METHODS["ModelStreamInfer"]
    with grpc.insecure_channel(server.address) as channel:
        stream = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            kinds.request.SerializeToString, kinds.response.FromString,
        )  # fmt: skip
        answers = stream(iter(requests.get, None), timeout=60)
        requests.put(request_from_arrays({"x": X}, model="linear", request_id="first"))
        assert next(answers).infer_response.id == "first"
        server.process.terminate()
        with pytest.raises(grpc.RpcError) as caught:
            next(answers)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in caught.value.details()
        requests.put(None)
    assert server.process.wait(60) == 0
    assert "Traceback" not in server.log.read_text()


def test_a_stream_that_its_client_gives_up_leaves_the_server_well(
    start_server, toy_writer, repository
):
    toy_writer(repository, "slow")
    server = start_server(repository)
    kinds = METHODS["ModelStreamInfer"]
    arrays = {"x": np.ones((1, 256), np.float32), "times": np.array([2000])}
    with grpc.insecure_channel(server.address) as channel:
        stream = channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            kinds.request.SerializeToString, kinds.response.FromString,
        )  # fmt: skip
        requests = [request_from_arrays(arrays, model="slow") for _ in range(50)]
        answers = stream(iter(requests), timeout=60)
        next(answers)
        answers.cancel()
        while call(channel, "ModelStatistics", name="slow").model_stats[
            0
        ].inference_stats.fail.count == 0:  # fmt: skip
            pass
        stats = call(channel, "ModelStatistics", name="slow").model_stats[0]
        assert stats.inference_stats.success.count < 50
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
