"""Calls and their errors, the same over every transport."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from protos import METHODS, SERVICE
from runtime.client import Client
from runtime.codec import arrays_from_response, request_from_arrays

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
CODES = grpc.StatusCode
UNARY = [name for name, method in METHODS.items() if not method.client_streaming]
CHANGING = {"ModelStatistics"}
"""Their answers hold what was counted, on each server for itself."""


def infer_bytes(model="linear", **arrays):
    return request_from_arrays(arrays or {"x": X}, model=model).SerializeToString()


def outcome(channel, method, payload, service=SERVICE):
    """What a call gives: a status, and a text or the bytes of the answer."""
    try:
        return CODES.OK, channel.unary_unary(f"/{service}/{method}")(payload)
    except grpc.RpcError as error:
        return error.code(), error.details()


def test_a_request_is_answered(server, toys):
    with Client(server.address) as client:
        answers = client.infer("linear", {"x": X})
    right = toys["linear"].compute({"x": X.astype(np.float64)})["y"]
    np.testing.assert_allclose(answers["y"], right, rtol=1e-5)


@pytest.mark.parametrize("payload", [b"", b"\xff\xff"])
def test_every_call_gives_the_same_on_every_transport(servers, payload):
    channels = [grpc.insecure_channel(servers(name).address) for name in ("grpcio", "envoy")]
    for method in UNARY:
        one, other = (outcome(channel, method, payload) for channel in channels)
        assert one[0] == other[0], method
        if method not in CHANGING:
            assert one == other, method
    for channel in channels:
        channel.close()


@pytest.mark.parametrize(
    ("method", "service", "payload", "code", "text"),
    [
        ("ModelInfer", SERVICE, b"\xff\xff", CODES.INVALID_ARGUMENT, "no inference.ModelInfer"),
        ("ModelInfer", SERVICE, infer_bytes("größe 100%\n"), CODES.NOT_FOUND, "größe 100%"),
        ("ModelInfer", SERVICE, infer_bytes(x=X[:, :3]), CODES.INVALID_ARGUMENT, "shape [2, 3]"),
        ("TraceSetting", SERVICE, b"", CODES.UNIMPLEMENTED, ""),
        ("Nothing", SERVICE, b"", CODES.UNIMPLEMENTED, "/Nothing is not served here"),
        ("Do", "a.B", b"", CODES.UNIMPLEMENTED, "/a.B/Do is not served"),
        ("Check", "grpc.health.v1.Health", b"\x0a\x03who", CODES.NOT_FOUND, "'who' is not known"),
    ],
)
def test_errors_arrive_with_status_and_text(channel, method, service, payload, code, text):
    found = outcome(channel, method, payload, service)
    assert found[0] is code
    assert text in found[1]
    assert "\n" not in found[1]


def test_metadata_is_taken_text_and_bytes(channel, raw):
    metadata = (("key", "value"), ("key", "again"), ("raw-bin", b"\xff\0"))
    assert raw(channel, "ServerLive")(b"", metadata=metadata)
    long = (("key", "x" * 5000),)
    assert raw(channel, "ServerLive")(b"", metadata=long)


def test_health_is_checked_and_watched(channel):
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="linear")
    assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    watched = health.Watch(request)
    assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
    watched.cancel()
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="who"))
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_reflection_describes_all_services(channel):
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)


def test_a_stream_is_answered_message_by_message(channel):
    """Each message is sent only when the answer to the one before has come."""
    method = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    stream = channel.stream_stream(
        method,
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = queue.SimpleQueue()
    answers = stream(iter(questions.get, None))
    for number in range(5):
        questions.put(reflection_pb2.ServerReflectionRequest(list_services="", host=str(number)))
        assert next(answers).original_request.host == str(number)
    questions.put(None)
    assert list(answers) == []


def test_inferences_of_a_stream_come_back_in_order(channel, parsed):
    requests = [
        request_from_arrays({"x": X * number}, model="linear", request_id=str(number))
        for number in range(200)
    ]
    call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    payloads = call(iter([request.SerializeToString() for request in requests]))
    answers = [parsed("ModelStreamInfer", payload) for payload in payloads]
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(200)]
    assert not any(answer.error_message for answer in answers)


def test_a_stream_of_nonsense_is_the_clients_error_in_the_stream_or_behind_it(channel, parsed):
    call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    answers = [parsed("ModelStreamInfer", item) for item in call(iter([infer_bytes("who")]))]
    assert "'who' is not known" in answers[0].error_message


def test_streams_that_end_while_their_clients_send_all_have_the_status(channel):
    call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    requests = [infer_bytes()] * 5 + [b"\xff"] + [infer_bytes()] * 30
    ended = {"metadata": (("triton_grpc_error", "true"),), "timeout": 60}
    with ThreadPoolExecutor(30) as pool:
        outcomes = list(pool.map(lambda _: stream_outcome(call, requests, **ended), range(90)))
    assert set(outcomes) == {(5, CODES.INVALID_ARGUMENT)}


def stream_outcome(call, requests, **how):
    """How many answers a stream gives, and its status."""
    answers = call(iter(requests), **how)
    count = 0
    try:
        for _ in answers:
            count += 1
    except grpc.RpcError:
        pass
    return count, answers.code()


def test_requests_of_many_connections_get_their_own_answers(server, toys, parsed):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((1 + i % 8, 4)).astype(np.float32) for i in range(400)]
    own = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(server.address, options=own) for _ in range(8)]
    calls = [channel.unary_unary(f"/{SERVICE}/ModelInfer") for channel in channels]
    futures = [
        calls[i % 8 if i < 200 else 0].future(infer_bytes(x=x)) for i, x in enumerate(arrays)
    ]
    for x, future in zip(arrays, futures, strict=True):
        answer = arrays_from_response(parsed("ModelInfer", future.result()))["y"]
        np.testing.assert_allclose(answer, toys["linear"].compute({"x": x})["y"], atol=1e-5)
    for channel in channels:
        channel.close()


def test_an_unmodified_client_of_triton_is_answered(server):
    tritonclient = pytest.importorskip("tritonclient.grpc", reason="tritonclient is missing")
    with tritonclient.InferenceServerClient(server.address) as client:
        assert client.is_server_ready()
        assert client.get_model_metadata("linear").name == "linear"
        given = tritonclient.InferInput("x", X.shape, "FP32")
        given.set_data_from_numpy(X)
        for compression in (None, "gzip", "deflate"):
            answer = client.infer("linear", [given], compression_algorithm=compression)
            assert answer.as_numpy("y").shape == (2, 3)
        with pytest.raises(tritonclient.InferenceServerException, match="'who' is not known"):
            client.get_model_metadata("who")
