"""The service without a transport: bytes in, bytes or an error with its status out."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

import protos
from protos import METHODS, SERVICE
from runtime.backends.base import BackendOptions
from runtime.backends.ort import OrtBackend
from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import InvalidInput, Status
from runtime.loading import LoadOptions
from runtime.properties import properties_from_map
from runtime.repository import Repository
from runtime.servicer import Call, Servicer
from runtime.verdicts import VerdictStore

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def infer_request(array=X, **changes):
    return request_from_arrays({"x": array}, **{"model": "linear", **changes})


async def test_an_inference_is_answered_with_id_and_version(servicer, toys, ask):
    response = await ask(servicer, "ModelInfer", infer_request(request_id="r7"))
    assert (response.model_name, response.model_version, response.id) == ("linear", "2", "r7")
    answers = arrays_from_response(response)
    assert list(answers) == ["y"], "'total' is sent on request only"
    right = toys["linear"].compute({"x": X.astype(np.float64)})["y"]
    np.testing.assert_allclose(answers["y"], right, rtol=1e-5)


async def test_a_version_that_is_named_answers(servicer, ask):
    response = await ask(servicer, "ModelInfer", infer_request(version="1"))
    assert response.model_version == "1"


async def test_outputs_come_as_they_are_named(servicer, ask):
    response = await ask(servicer, "ModelInfer", infer_request(outputs=["total", "y"]))
    assert list(arrays_from_response(response)) == ["total", "y"]


async def test_text_goes_there_and_back(write_toy, open_service, ask):
    write_toy("strings")
    servicer = await open_service(unproved=True)
    text = np.array([b"one", "zwölf".encode(), b""], dtype=object)
    request = request_from_arrays({"text": text}, model="strings")
    answers = arrays_from_response(await ask(servicer, "ModelInfer", request))
    assert answers["same"].tolist() == text.tolist()


TABLE = [
    (infer_request(model="other"), Status.NOT_FOUND, "'other' is not known; there are linear"),
    (infer_request(version="9"), Status.NOT_FOUND, "no version 9; there are 1, 2"),
    (infer_request(version="new"), Status.INVALID_ARGUMENT, "'new' of model 'linear' is no number"),
    (
        request_from_arrays({"z": X}, model="linear"),
        Status.INVALID_ARGUMENT,
        "input 'z' is not known; the model has x",
    ),
    (
        request_from_arrays({}, model="linear"),
        Status.INVALID_ARGUMENT,
        "input 'x' is missing; the model wants float32 [batch, 4]",
    ),
    (
        infer_request(X.astype(np.float64)),
        Status.INVALID_ARGUMENT,
        "input 'x' has data type float64; the model wants float32 [batch, 4]",
    ),
    (
        infer_request(np.zeros((2, 5), np.float32)),
        Status.INVALID_ARGUMENT,
        "input 'x' has shape [2, 5]; the model wants float32 [batch, 4]",
    ),
    (
        infer_request(np.zeros((9, 4), np.float32)),
        Status.INVALID_ARGUMENT,
        "input 'x' has a batch of 9; model 'linear' takes 1 to 8",
    ),
    (
        infer_request(np.zeros((0, 4), np.float32)),
        Status.INVALID_ARGUMENT,
        "input 'x' has a batch of 0; model 'linear' takes 1 to 8",
    ),
    (
        infer_request(outputs=["w"]),
        Status.INVALID_ARGUMENT,
        "output 'w' is not known; the model has y, total",
    ),
    (b"\xff\xff\xff", Status.INVALID_ARGUMENT, "the 3 bytes sent are no inference.ModelInferReq"),
]


@pytest.mark.parametrize(("request_", "status", "text"), TABLE)
async def test_a_wrong_request_gets_the_status_that_triton_gives(
    servicer, request_, status, text, ask, status_of
):
    found, said = await status_of(ask(servicer, "ModelInfer", request_))
    assert found is status
    assert text in said


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"name": "other"}, Status.NOT_FOUND),
        ({"name": "linear", "version": "9"}, Status.NOT_FOUND),
        ({"name": "linear", "version": "x"}, Status.INVALID_ARGUMENT),
    ],
)
async def test_a_model_that_is_not_known_has_no_description(
    servicer, method, fields, status, ask, status_of
):
    found, _ = await status_of(ask(servicer, method, **fields))
    assert found is status


@pytest.mark.parametrize("method", [name for name, kinds in METHODS.items()
                                    if not kinds.client_streaming])  # fmt: skip
async def test_bytes_that_are_no_message_are_never_an_internal_error(
    servicer, method, ask, status_of
):
    found, _ = await status_of(ask(servicer, method, b"\xff\xff\xff"))
    assert found in (Status.INVALID_ARGUMENT, Status.UNIMPLEMENTED)


async def test_a_model_that_is_not_ready_is_unavailable_with_the_reason(
    write_toy, open_service, ask, status_of
):
    write_toy("linear", weights={"w": np.ones((4, 3), np.float32), "axis": np.array([1])})
    servicer = await open_service()
    for method, request in (
        ("ModelInfer", infer_request()),
        ("ModelMetadata", protos.ModelMetadataRequest(name="linear")),
        ("ModelConfig", protos.ModelConfigRequest(name="linear")),
    ):
        status, text = await status_of(ask(servicer, method, request))
        assert status is Status.UNAVAILABLE
        assert "RMS error" in text
    assert not (await ask(servicer, "ModelReady", name="linear")).ready
    assert not (await ask(servicer, "ServerReady")).ready
    assert (await ask(servicer, "ServerLive")).live


async def test_the_server_says_what_it_is(servicer, ask):
    answer = await ask(servicer, "ServerMetadata")
    assert answer.name == "twinport"
    assert answer.version[0].isdigit()


async def test_a_model_says_what_it_takes_and_that_it_was_proved_here(servicer, ask):
    answer = await ask(servicer, "ModelMetadata", name="linear")
    assert (answer.name, list(answer.versions)) == ("linear", ["1", "2"])
    assert answer.platform == "onnxruntime_onnx"
    (x,) = answer.inputs
    assert (x.name, x.datatype, list(x.shape)) == ("x", "FP32", [-1, 4])
    assert [output.name for output in answer.outputs] == ["y", "total"]
    assert properties_from_map(answer.properties).proved_here == "passed"
    assert json.loads(answer.properties["twinport.on_request"]) == ["total"]
    runs_on = json.loads(answer.properties["twinport.runs_on"])
    assert runs_on["provider"] == "CPUExecutionProvider"
    assert "twinport.unproved" not in answer.properties
    assert list((await ask(servicer, "ModelMetadata", name="linear", version="1")).versions) == [
        "1"
    ]


async def test_a_model_that_is_served_unproved_says_so(write_toy, open_service, ask):
    write_toy("linear", manifest=False)
    servicer = await open_service(unproved=True)
    answer = await ask(servicer, "ModelMetadata", name="linear")
    assert answer.properties["twinport.unproved"] == "the version has no manifest"
    assert properties_from_map(answer.properties).proved_here == "pending"


async def test_versions_that_do_not_answer_are_told_with_the_reason(write_toy, open_service, ask):
    write_toy("linear", version=1)
    write_toy("linear", version=2)
    write_toy("linear", version=3, manifest=False)
    answer = await ask(await open_service(), "ModelMetadata", name="linear")
    assert list(answer.versions) == ["1", "2"]
    assert "no manifest" in json.loads(answer.properties["twinport.not_ready"])["3"]


async def test_the_configuration_is_complete(write_toy, open_service, repository, ask):
    write_toy("linear")
    (repository / "linear" / "config.pbtxt").write_text("max_batch_size: 4 runtime: 'kept'")
    config = (await ask(await open_service(), "ModelConfig", name="linear")).config
    assert (config.name, config.backend, config.max_batch_size) == ("linear", "onnxruntime", 4)
    assert config.default_model_filename == "model.onnx"
    assert [list(tensor.dims) for tensor in config.input] == [[4]]
    assert [tensor.name for tensor in config.output] == ["y", "total"]
    assert config.runtime == "kept"


@pytest.mark.parametrize("method", ["TraceSetting", "LogSettings", "CudaSharedMemoryRegister"])
async def test_a_call_that_is_not_served_is_unimplemented_with_a_text(
    servicer, method, ask, status_of
):
    status, text = await status_of(ask(servicer, method))
    assert status is Status.UNIMPLEMENTED
    assert method in text


def test_every_call_of_the_service_has_its_handler(repository, write_toy, tmp_path):
    write_toy("linear")
    options = LoadOptions(BackendOptions(), False, VerdictStore(tmp_path))
    servicer = Servicer(Repository(repository, options))
    served = {*servicer.unary_methods, *servicer.stream_methods}
    assert {f"/{SERVICE}/{name}" for name in METHODS} < served


async def test_what_is_too_late_is_not_run(servicer, monkeypatch, ask, status_of):
    ran = []
    monkeypatch.setattr(OrtBackend, "infer", lambda *_args: ran.append(1))
    late = Call(deadline=time.monotonic() - 0.001)
    status, _ = await status_of(ask(servicer, "ModelInfer", infer_request(), late))
    assert status is Status.DEADLINE_EXCEEDED
    assert ran == []
    status, _ = await status_of(ask(servicer, "ServerLive", call=late))
    assert status is Status.DEADLINE_EXCEEDED


async def test_a_request_that_takes_too_long_ends_at_its_deadline(
    write_toy, open_service, ask, status_of
):
    write_toy("slow")
    servicer = await open_service()
    arrays = {"x": np.zeros((128, 256), np.float32), "times": np.array([3000])}
    request = request_from_arrays(arrays, model="slow")
    soon = Call(deadline=time.monotonic() + 0.02)
    status, _ = await status_of(ask(servicer, "ModelInfer", request, soon))
    assert status is Status.DEADLINE_EXCEEDED


async def test_a_defect_is_internal_and_its_text_stays_in_the_log(
    servicer, monkeypatch, caplog, ask, status_of
):
    def failing(*_args):
        raise ZeroDivisionError("a secret of the machine")

    monkeypatch.setattr(OrtBackend, "infer", failing)
    status, text = await status_of(ask(servicer, "ModelInfer", infer_request()))
    assert status is Status.INTERNAL
    assert "secret" not in text
    mark = text.split()[2].rstrip(";")
    assert mark in caplog.text
    assert "secret" in caplog.text


async def test_an_error_of_the_backend_has_its_own_status(servicer, monkeypatch, ask, status_of):
    def failing(*_args):
        raise InvalidInput("the library refuses this")

    monkeypatch.setattr(OrtBackend, "infer", failing)
    status, text = await status_of(ask(servicer, "ModelInfer", infer_request()))
    assert (status, text) == (Status.INVALID_ARGUMENT, "the library refuses this")
