"""The real server process: start, answers, drain, end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import closing

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from protos import METHODS, SERVICE
from runtime.client import Client
from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import Unavailable

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
FOREVER = 10**9
WRONG = {"w": np.ones((4, 3), np.float32), "axis": np.array([1])}


@pytest.fixture(scope="module")
def server(start_server, toy_writer, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    toy_writer(repository, "linear")
    toy_writer(repository, "linear", version=2, weights=WRONG)
    return start_server(repository)


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def raw_call(channel, method, service=SERVICE):
    return channel.unary_unary(f"/{service}/{method}")


def slow_call(channel, times):
    """Start a request that runs in the server when this returns."""
    arrays = {"x": np.ones((1, 256), np.float32), "times": np.array([times])}
    request = request_from_arrays(arrays, model="slow")
    raw_call(channel, "ServerLive")(b"")
    future = raw_call(channel, "ModelInfer").future(request.SerializeToString())
    # A connection that stands keeps the order: once these are answered it has arrived.
    for _ in range(3):
        raw_call(channel, "ServerLive")(b"")
    return future


def run_to_the_end(*arguments):
    command = [sys.executable, "-m", "runtime", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_server_prints_its_address_and_each_version(server):
    assert server.lines[0] == f"twinport: listening on {server.address}"
    assert server.lines[1].startswith("twinport: metrics at http://127.0.0.1:")
    assert server.lines[2] == "twinport: ready: linear/1"
    assert server.lines[3].startswith("twinport: not ready: linear/2: not proved on CPU")
    assert server.lines[4] == "twinport: 1 of 1 models ready"


def test_a_request_is_answered(server, toys):
    with Client(server.address) as client:
        answers = client.infer("linear", {"x": X})
    right = toys["linear"].compute({"x": X.astype(np.float64)})["y"]
    np.testing.assert_allclose(answers["y"], right, rtol=1e-5)


def test_bytes_that_are_no_message_are_the_clients_error(channel):
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(channel, "ModelInfer")(b"\xff\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no inference.ModelInferRequest" in caught.value.details()


def test_what_the_server_lacks_is_unimplemented(channel):
    for method, service in (("TraceSetting", SERVICE), ("Nothing", SERVICE), ("Do", "a.B")):
        with pytest.raises(grpc.RpcError) as caught:
            raw_call(channel, method, service)(b"")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_long_and_strange_name_comes_back_as_a_short_error(channel):
    request = request_from_arrays({"x": X}, model="größe\n" * 5000)
    with pytest.raises(grpc.RpcError) as caught:
        raw_call(channel, "ModelInfer")(request.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "größe" in caught.value.details()
    assert len(caught.value.details()) < 300


def test_the_deadline_of_a_request_holds(start_server, write_toy, repository):
    write_toy("slow")
    server = start_server(repository, "--drain-seconds", "0")
    with grpc.insecure_channel(server.address) as channel:
        arrays = {"x": np.ones((1, 256), np.float32), "times": np.array([FOREVER])}
        request = request_from_arrays(arrays, model="slow")
        with pytest.raises(grpc.RpcError) as caught:
            raw_call(channel, "ModelInfer")(request.SerializeToString(), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert raw_call(channel, "ServerLive")(b"")
    assert server.stop() == 0


def test_the_largest_message_is_what_was_set(start_server, write_toy, repository):
    write_toy("slow")
    server = start_server(repository, "--max-message-mb", "1")
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        arrays = {"x": np.ones((1100, 256), np.float32), "times": np.array([1])}
        request = request_from_arrays(arrays, model="slow")
        with pytest.raises(grpc.RpcError) as caught:
            raw_call(channel, "ModelInfer")(request.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.stop() == 0


def test_a_message_beyond_grpcs_own_default_limit_is_taken(start_server, write_toy, repository):
    write_toy("strings")
    server = start_server(repository, "--unproved", "allow")
    assert "twinport: ready: strings/1 (unproved: the version carries no evidence)" in server.lines
    assert "strings/1 is served unproved" in server.log.read_text()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        text = np.array([b"x" * 2**23], dtype=object)
        request = request_from_arrays({"text": text}, model="strings")
        answer = raw_call(channel, "ModelInfer")(request.SerializeToString())
    response = METHODS["ModelInfer"].response.FromString(answer)
    assert arrays_from_response(response)["same"][0] == text[0]


def test_reflection_describes_all_services(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) == {
        SERVICE,
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "grpc.reflection.v1.ServerReflection",
    }
    pool = DescriptorPool(database)
    methods = pool.FindServiceByName(SERVICE).methods_by_name
    assert set(methods) == set(METHODS)
    assert methods["ModelInfer"].input_type.fields_by_name["raw_input_contents"].number == 7
    assert "Watch" in pool.FindServiceByName("grpc.health.v1.Health").methods_by_name


def test_the_standard_health_client_is_answered(channel):
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="linear")
    assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    watched = health.Watch(request)
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()


def test_sigterm_lets_a_running_request_finish_and_tells_watchers(
    start_server, write_toy, repository
):
    write_toy("slow")
    server = start_server(repository)
    with grpc.insecure_channel(server.address) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        running = slow_call(channel, 100_000)
        server.process.send_signal(signal.SIGTERM)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not running.done()
        with pytest.raises(grpc.RpcError) as caught:
            slow_call(channel, 1).result()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "shutting down" in caught.value.details()
        answer = METHODS["ModelInfer"].response.FromString(running.result())
        assert answer.model_name == "slow"
    assert server.process.wait(60) == 0


def test_a_request_that_outlasts_the_drain_is_cut_off(start_server, write_toy, repository):
    write_toy("slow")
    server = start_server(repository, "--drain-seconds", "0.1")
    with grpc.insecure_channel(server.address) as channel:
        running = slow_call(channel, FOREVER)
        assert server.stop() == 0
        with pytest.raises(grpc.RpcError):
            running.result()
    assert "cut off" in server.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_with_success_and_without_complaint(
    number, start_server, write_toy, repository
):
    write_toy("linear")
    server = start_server(repository)
    with Client(server.address) as client:
        client.infer("linear", {"x": X})
    assert server.stop(number) == 0
    assert "Traceback" not in server.log.read_text()
    with closing(socket.socket()) as probe:
        host, port = server.address.split(":")
        assert probe.connect_ex((host, int(port))) != 0


def test_a_taken_port_is_one_line_and_exit_1(server, write_toy, repository):
    write_toy("linear")
    port = server.address.split(":")[1]
    ran = run_to_the_end(repository, "--port", port)
    assert ran.returncode == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert f"127.0.0.1:{port} cannot be listened on: Address already in use" in line


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nowhere"], 1, "the repository nowhere is not a folder"),
        (["nowhere", "--port", "99999"], 1, "port is 99999; wanted 0 to 65535"),
        (["nowhere", "--unproved", "maybe"], 2, "'maybe' is not one of"),
        ([], 2, "Missing argument 'REPOSITORY'"),
    ],
)
def test_wrong_arguments_are_said_in_one_line(arguments, code, text):
    ran = run_to_the_end(*arguments)
    assert ran.returncode == code
    assert text in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_address_that_is_not_ours_is_one_line(write_toy, repository):
    write_toy("linear")
    ran = run_to_the_end(repository, "--host", "192.0.2.1", "--port", "0")
    assert ran.returncode == 1
    assert "192.0.2.1:0 cannot be listened on" in ran.stderr


WITH_MODULES = """
import json, sys
from runtime.cli import main
code = main(["serve", *sys.argv[1:]])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
sys.exit(code)
"""


def test_a_server_that_answered_a_request_never_imported_torch_or_onnx(
    start_server, write_toy, repository, tmp_path
):
    write_toy("linear")
    program = tmp_path / "program.py"
    program.write_text(WITH_MODULES)
    server = start_server(repository, program=(str(program),))
    with Client(server.address) as client:
        assert client.infer("linear", {"x": X})["y"].shape == (2, 3)
    assert server.stop() == 0
    modules = set(json.loads(server.log.read_text().splitlines()[-1]))
    assert {"runtime", "protos", "grpc", "onnxruntime"} <= modules
    assert not modules & {"torch", "torchvision", "onnx", "onnxscript", "models", "exporter"}
    assert not modules & {"opentelemetry", "matplotlib"}


WITH_A_DEFECT = """
import sys
from runtime.cli import main
from runtime.repository import Repository

async def load(self, report):
    raise ZeroDivisionError("a defect")

Repository.load = load
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_a_defect_while_loading_ends_the_server_instead_of_leaving_it_half_up(
    write_toy, repository
):
    write_toy("linear")
    command = [sys.executable, "-c", WITH_A_DEFECT, str(repository), "--port", "0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "ZeroDivisionError: a defect" in ran.stderr


def test_requests_of_many_clients_at_once_get_their_own_answers(server, toys):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((1 + i % 8, 4)).astype(np.float32) for i in range(200)]
    with grpc.insecure_channel(server.address) as channel:
        call = raw_call(channel, "ModelInfer")
        futures = [
            call.future(request_from_arrays({"x": x}, model="linear").SerializeToString())
            for x in arrays
        ]
        for x, future in zip(arrays, futures, strict=True):
            response = METHODS["ModelInfer"].response.FromString(future.result())
            right = toys["linear"].compute({"x": x})["y"]
            np.testing.assert_allclose(arrays_from_response(response)["y"], right, atol=1e-5)


def test_a_client_that_gave_up_does_not_hold_the_others_up(start_server, write_toy, repository):
    write_toy("slow")
    server = start_server(repository)
    with grpc.insecure_channel(server.address) as channel:
        first = slow_call(channel, 20_000)
        waiting = [slow_call(channel, FOREVER) for _ in range(3)]
        for call in waiting:
            call.cancel()
        first.result()
        slow_call(channel, 1).result(timeout=60)
    assert server.stop() == 0


def test_while_it_loads_the_server_is_alive_and_not_ready_and_can_be_stopped(
    start_server, write_toy, repository
):
    write_toy("slow", samples={"x": np.ones((1, 256), np.float32), "times": np.array(FOREVER)})
    server = start_server(repository, until="listening on")
    with Client(server.address) as client:
        assert client.live()
        assert not client.ready()
        assert not client.model_ready("slow")
        with pytest.raises(Unavailable, match="LOADING"):
            client.model_metadata("slow")
    with grpc.insecure_channel(server.address) as channel:
        request = health_pb2.HealthCheckRequest()
        status = health_pb2_grpc.HealthStub(channel).Check(request).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert server.stop() == 0


@pytest.mark.slow
def test_a_client_that_pings_every_second_is_not_sent_away(start_server, write_toy, repository):
    write_toy("slow")
    server = start_server(repository, "--drain-seconds", "0")
    options = [("grpc.keepalive_time_ms", 1100), ("grpc.http2.max_pings_without_data", 0)]
    with grpc.insecure_channel(server.address, options=options) as channel:
        running = slow_call(channel, FOREVER)
        with pytest.raises(grpc.FutureTimeoutError):
            running.result(timeout=8)
    assert server.stop() == 0
