from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest

import protos
from runtime.client import Client
from runtime.client_wire import channel_options, error_from_status, stream_error_from_status
from runtime.codec import response_from_arrays
from runtime.errors import (
    DeadlineExceeded,
    InvalidInput,
    ManifestError,
    NotFound,
    RepositoryError,
    ResourceExhausted,
    TwinportError,
    Unavailable,
    Unimplemented,
)
from runtime.properties import LABELS, PREPROCESSING, PROOF, PROVED_HERE
from runtime.tensors import BY_NAME


def echo(request, context):
    """Give the inputs back; version, id and outputs asked for come as outputs too."""
    response = protos.ModelInferResponse(model_name=request.model_name, id=request.id)
    for tensor, data in zip(request.inputs, request.raw_input_contents, strict=True):
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(data)
    said = [request.model_name, request.model_version, request.id]
    said += [output.name for output in request.outputs]
    extra = response_from_arrays({"said": np.array(said)}, model="", version="")
    response.outputs.extend(extra.outputs)
    response.raw_output_contents.extend(extra.raw_output_contents)
    return response


def aborting(code: grpc.StatusCode, text: str):
    return lambda request, context: context.abort(code, text)


def metadata_with(**fields):
    def handler(request, context):
        return protos.ModelMetadataResponse(name=request.name, **fields)

    return handler


def tensor(name, datatype, shape):
    return protos.ModelMetadataResponse.TensorMetadata(name=name, datatype=datatype, shape=shape)


@pytest.fixture
def closed_port():
    """An address at which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("dtype", [name for name in BY_NAME if name != "string"])
def test_arrays_come_back_as_they_went(dtype, serve_with):
    sent = np.arange(6).reshape(1, 2, 3).astype(dtype)
    with Client(serve_with(ModelInfer=echo)) as client:
        got = client.infer("m", {"x": sent, "y": sent[:, :1].T})
    assert got["x"].dtype == sent.dtype
    np.testing.assert_array_equal(got["x"], sent)
    np.testing.assert_array_equal(got["y"], sent[:, :1].T)
    got["x"][...] = 0  # it belongs to the caller


def test_text_comes_back_as_bytes(serve_with):
    with Client(serve_with(ModelInfer=echo)) as client:
        got = client.infer("m", {"x": np.array(["a", "ü", ""])})
    assert got["x"].tolist() == [b"a", "ü".encode(), b""]


def test_version_id_and_outputs_reach_the_server(serve_with):
    with Client(serve_with(ModelInfer=echo)) as client:
        got = client.infer(
            "m", {"x": np.zeros(1)}, version="3", request_id="r7", outputs=["b", "a"]
        )
    assert got["said"].tolist() == [b"m", b"3", b"r7", b"b", b"a"]


def test_messages_above_the_usual_limit_pass(serve_with):
    def large(request, context):
        array = np.ones(3_000_000, dtype=np.float32)
        return response_from_arrays({"y": array}, model="m", version="1")

    with Client(serve_with(ModelInfer=large)) as client:
        assert client.infer("m", {"x": np.zeros(1)})["y"].nbytes == 12_000_000


@pytest.mark.parametrize("answer", [True, False])
def test_states_are_what_the_server_says(answer, serve_with):
    asked = []

    def model_ready(request, context):
        asked.append((request.name, request.version))
        return protos.ModelReadyResponse(ready=answer)

    url = serve_with(
        ServerLive=lambda request, context: protos.ServerLiveResponse(live=answer),
        ServerReady=lambda request, context: protos.ServerReadyResponse(ready=answer),
        ModelReady=model_ready,
    )
    with Client(url) as client:
        assert client.live() is answer
        assert client.ready() is answer
        assert client.model_ready("m") is answer
        assert client.model_ready("m", "2") is answer
    assert asked == [("m", ""), ("m", "2")]


def test_the_server_says_who_it_is(serve_with):
    def handler(request, context):
        return protos.ServerMetadataResponse(name="n", version="1.2", extensions=["a", "b"])

    with Client(serve_with(ServerMetadata=handler)) as client:
        info = client.server_metadata()
    assert (info.name, info.version, info.extensions) == ("n", "1.2", ("a", "b"))


def test_metadata_becomes_tensor_specs_and_properties(serve_with):
    preprocessing = (
        '{"input": "image", "color": "gray", "height": 32, "width": 32, '
        '"mean": [0.5], "std": [2], "resample": "bilinear"}'
    )
    handler = metadata_with(
        versions=["1", "2"],
        platform="onnxruntime_onnx",
        inputs=[tensor("image", "FP32", [-1, 1, -1, 32])],
        outputs=[tensor("logits", "FP16", [-1, 10])],
        properties={
            PREPROCESSING: preprocessing,
            LABELS: '["a", "b"]',
            PROOF: "passed",
            PROVED_HERE: "failed",
            "someone.else": "{",
        },
    )
    with Client(serve_with(ModelMetadata=handler)) as client:
        model = client.model_metadata("m")
    assert (model.name, model.versions, model.platform) == ("m", ("1", "2"), "onnxruntime_onnx")
    assert [str(spec) for spec in model.inputs] == ["float32 [batch, 1, image_2, 32]"]
    assert [str(spec) for spec in model.outputs] == ["float16 [batch, 10]"]
    assert model.properties.labels == ("a", "b")
    assert model.properties.preprocessing is not None
    assert model.properties.preprocessing.std == (2.0,)
    assert (model.properties.proof, model.properties.proved_here) == ("passed", "failed")


def test_axis_0_is_no_batch_where_another_tensor_has_it_fixed(serve_with):
    handler = metadata_with(
        inputs=[tensor("x", "INT64", [-1])], outputs=[tensor("y", "BYTES", [3, -1])]
    )
    with Client(serve_with(ModelMetadata=handler)) as client:
        model = client.model_metadata("m")
    assert [str(spec) for spec in (*model.inputs, *model.outputs)] == [
        "int64 [x_0]",
        "string [3, y_1]",
    ]


def test_a_type_that_is_not_known_is_said(serve_with):
    handler = metadata_with(inputs=[tensor("x", "BF16", [1])])
    with (
        Client(serve_with(ModelMetadata=handler)) as client,
        pytest.raises(Unimplemented, match="'x' has data type BF16; this client knows BOOL"),
    ):
        client.model_metadata("m")


@pytest.mark.parametrize("labels", ["[", '{"a": 1}'])
def test_properties_that_cannot_be_read_are_said(labels, serve_with):
    handler = metadata_with(properties={LABELS: labels})
    with (
        Client(serve_with(ModelMetadata=handler)) as client,
        pytest.raises(ManifestError, match=r"the server's twinport\.labels"),
    ):
        client.model_metadata("m")


def test_the_configuration_comes_whole(serve_with):
    def handler(request, context):
        config = protos.ModelConfig(name=request.name, max_batch_size=4)
        return protos.ModelConfigResponse(config=config)

    with Client(serve_with(ModelConfig=handler)) as client:
        assert client.model_config("m").max_batch_size == 4


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INVALID_ARGUMENT", InvalidInput),
        ("NOT_FOUND", NotFound),
        ("UNAVAILABLE", Unavailable),
        ("DEADLINE_EXCEEDED", DeadlineExceeded),
        ("RESOURCE_EXHAUSTED", ResourceExhausted),
        ("UNIMPLEMENTED", Unimplemented),
        ("FAILED_PRECONDITION", RepositoryError),
        ("INTERNAL", TwinportError),
        ("UNKNOWN", TwinportError),
    ],
)
def test_a_status_becomes_our_error_with_the_servers_text(code, kind, serve_with):
    status = grpc.StatusCode[code]
    url = serve_with(ModelInfer=aborting(status, "given this, wanted that"))
    with Client(url) as client, pytest.raises(TwinportError) as caught:
        client.infer("m", {"x": np.zeros(1)})
    assert type(caught.value) is kind
    assert str(caught.value) == "given this, wanted that"
    assert kind.status.name == code or kind is TwinportError


def test_a_status_without_a_text_gets_one(serve_with):
    with (
        Client(serve_with(ServerLive=aborting(grpc.StatusCode.INTERNAL, ""))) as client,
        pytest.raises(TwinportError, match="answered INTERNAL without a text"),
    ):
        client.live()


def test_a_call_that_the_server_lacks_is_unimplemented(serve_with):
    with Client(serve_with()) as client, pytest.raises(Unimplemented):
        client.model_config("m")


def test_nobody_there_says_how_to_start_one(closed_port):
    with Client(closed_port) as client, pytest.raises(Unavailable) as caught:
        client.live()
    assert str(caught.value) == (
        f"no server answers at {closed_port}; start one with `twinport serve REPOSITORY`"
    )


@pytest.mark.parametrize(
    "text",
    [
        "DNS resolution failed for no.such.host:1",
        "errors resolving no.such.host:1: [field:hostname lookup error:address lookup failed for "
        "no.such.host:1: Domain name not found]",
    ],
)
def test_a_name_that_does_not_resolve_is_nobody_there(text):
    error = error_from_status(grpc.StatusCode.UNAVAILABLE, text, "no.such.host:1")
    assert str(error).startswith("no server answers at no.such.host:1")


def test_a_stream_whose_status_the_library_lost_says_so():
    text = 'Internal error from Core Failed "execute_batch": (SendMessageOperation,)'
    error = stream_error_from_status(grpc.StatusCode.INTERNAL, text, "host:1")
    assert isinstance(error, Unavailable)
    assert "host:1 ended the stream while requests were sent" in str(error)
    error = stream_error_from_status(grpc.StatusCode.INTERNAL, "internal error ab12", "host:1")
    assert (type(error), str(error)) == (TwinportError, "internal error ab12")


def test_a_slow_answer_is_given_up(serve_with):
    over = threading.Event()

    def slow(request, context):
        over.wait(30)
        return protos.ModelInferResponse()

    with Client(serve_with(ModelInfer=slow)) as client:
        with pytest.raises(DeadlineExceeded, match="gave no answer in time"):
            client.infer("m", {"x": np.zeros(1)}, timeout_s=0.2)
        over.set()


@pytest.mark.parametrize("text", ["", "Deadline Exceeded", "Stream removed (Deadline Exceeded)"])
def test_a_time_that_was_over_is_said_in_our_words(text):
    error = error_from_status(grpc.StatusCode.DEADLINE_EXCEEDED, text, "h:1")
    assert str(error) == "the server at h:1 gave no answer in time; allow it more"


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_time_limit_is_positive(timeout_s):
    with pytest.raises(InvalidInput, match="wanted more than 0"):
        Client(timeout_s=timeout_s)


@pytest.mark.parametrize(
    "url", ["", "here", "http://127.0.0.1:8001", "a:b", ":8001", "h:1:2", "h:65536"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InvalidInput, match="is no address; wanted HOST:PORT"):
        Client(url)


@pytest.mark.parametrize("url", ["host.example:80", "[::1]:8001", "unix:/tmp/socket"])
def test_hosts_ipv6_and_unix_sockets_are_addresses(url):
    Client(url).close()


def test_no_proxy_stands_between_us_and_this_machine(serve_with, closed_port, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("no_grpc_proxy", raising=False)
    monkeypatch.setenv("http_proxy", f"http://{closed_port}")
    url = serve_with(ServerLive=lambda request, context: protos.ServerLiveResponse(live=True))
    with Client(url) as client:
        assert client.live()


def test_a_proxy_may_stand_before_other_machines():
    assert "grpc.enable_http_proxy" not in dict(channel_options("far.example:1"))


def test_waiting_ends_when_the_server_is_ready(serve_with):
    looks = []

    def handler(request, context):
        looks.append(1)
        return protos.ServerReadyResponse(ready=len(looks) > 2)

    with Client(serve_with(ServerReady=handler)) as client:
        client.wait_ready(30)
    assert len(looks) == 3


def test_waiting_begins_before_the_server_does(closed_port, serve_with):
    started = threading.Event()

    def start() -> None:
        time.sleep(0.3)
        serve_with(closed_port, ServerReady=lambda r, c: protos.ServerReadyResponse(ready=True))
        started.set()

    thread = threading.Thread(target=start)
    thread.start()
    with Client(closed_port) as client:
        client.wait_ready(30)
    assert started.is_set()
    thread.join()


def test_waiting_for_nobody_ends(closed_port):
    with Client(closed_port) as client, pytest.raises(Unavailable, match="no server answers"):
        client.wait_ready(0.3)


def test_waiting_for_a_server_that_never_gets_ready_ends(serve_with):
    url = serve_with(ServerReady=lambda request, context: protos.ServerReadyResponse())
    with Client(url) as client, pytest.raises(DeadlineExceeded, match=r"not ready after 0\.3 s"):
        client.wait_ready(0.3)


def test_the_client_imports_neither_torch_nor_onnx_nor_a_backend():
    code = (
        "import sys, runtime.client; print([name for name in"
        " ('torch', 'onnx', 'onnxruntime', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
