"""The unmodified tritonclient against our server, in one process with our own client."""

from __future__ import annotations

import queue
import subprocess
import sys

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from protos import ModelMetadataResponse
from runtime.client import Client

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def server(start_server, toy_writer, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    for kind in ("linear", "strings", "slow"):
        toy_writer(repository, kind)
    toy_writer(repository, "linear", version=2)
    toy_writer(repository, "linear", name="changed")
    artifact = repository / "changed" / "1" / "model.onnx"
    artifact.write_bytes(artifact.read_bytes() + b"\0")
    return start_server(repository, "--unproved", "allow", "--drain-seconds", "0")


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.address) as client:
        yield client


def input_of(array, name="x", datatype="FP32", kind=triton):
    given = kind.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def right_answer(toys, x):
    return toys["linear"].compute({"x": x.astype(np.float64)})["y"]


def test_its_looks_at_server_and_model_are_answered(client):
    assert client.is_server_live()
    assert not client.is_server_ready(), "one model is not ready"
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    assert not client.is_model_ready("changed")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata().name == "twinport"
    metadata = client.get_model_metadata("linear", as_json=True)
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert client.get_model_config("linear").config.max_batch_size == 8


def test_its_inference_gives_the_right_numbers(client, toys):
    result = client.infer("linear", [input_of(X)], request_id="r1", model_version="1")
    np.testing.assert_allclose(result.as_numpy("y"), right_answer(toys, X), rtol=1e-5)
    assert result.get_response().id == "r1"
    assert result.get_response().model_version == "1"
    assert result.as_numpy("total") is None


def test_an_output_it_asks_for_is_sent(client, toys):
    wanted = [triton.InferRequestedOutput("total")]
    result = client.infer("linear", [input_of(X)], outputs=wanted)
    np.testing.assert_allclose(
        result.as_numpy("total"), right_answer(toys, X).sum(1, keepdims=True), rtol=1e-4
    )
    assert result.as_numpy("y") is None


def test_its_text_goes_there_and_back(client):
    text = np.array([b"one", "zwölf".encode(), b""], dtype=object)
    result = client.infer("strings", [input_of(text, "text", "BYTES")])
    assert result.as_numpy("same").tolist() == text.tolist()


def test_its_callback_gets_the_answer_and_its_errors(client, toys):
    answers: queue.Queue = queue.Queue()
    for model in ("linear", "other"):
        client.async_infer(model, [input_of(X)], lambda result, error: answers.put((result, error)))
        result, error = answers.get(timeout=60)
        if model == "linear":
            np.testing.assert_allclose(result.as_numpy("y"), right_answer(toys, X), rtol=1e-5)
        else:
            assert error.status() == "StatusCode.NOT_FOUND"


def test_its_compression_works(client, toys):
    result = client.infer("linear", [input_of(X)], compression_algorithm="gzip")
    np.testing.assert_allclose(result.as_numpy("y"), right_answer(toys, X), rtol=1e-5)


async def test_its_asyncio_client_works(server, toys):
    async with triton_aio.InferenceServerClient(server.address) as client:
        assert await client.is_server_live()
        assert await client.is_model_ready("linear")
        result = await client.infer("linear", [input_of(X, kind=triton_aio)])
        np.testing.assert_allclose(result.as_numpy("y"), right_answer(toys, X), rtol=1e-5)


SLOW = [
    input_of(np.ones((1, 256), np.float32)),
    # Some seconds: the server computes on after the client gave up.
    input_of(np.array([1_000_000]), "times", "INT64"),
]
IN_NO_REGION = triton.InferInput("x", [2, 4], "FP32")
IN_NO_REGION.set_shared_memory("none", 32)
ERRORS = {
    "an unknown model": ("other", [input_of(X)], {}, "NOT_FOUND"),
    "an unknown version": ("linear", [input_of(X)], {"model_version": "7"}, "NOT_FOUND"),
    "no number": ("linear", [input_of(X)], {"model_version": "new"}, "INVALID_ARGUMENT"),
    "a model that is not ready": ("changed", [input_of(X)], {}, "UNAVAILABLE"),
    "an unknown input": ("linear", [input_of(X, "z")], {}, "INVALID_ARGUMENT"),
    "a missing input": ("linear", [], {}, "INVALID_ARGUMENT"),
    "another type": (
        "linear",
        [input_of(X.astype(np.float64), datatype="FP64")],
        {},
        "INVALID_ARGUMENT",
    ),
    "another shape": ("linear", [input_of(X.reshape(4, 2))], {}, "INVALID_ARGUMENT"),
    "too large a batch": ("linear", [input_of(np.tile(X, (5, 1)))], {}, "INVALID_ARGUMENT"),
    "an unknown output": (
        "linear",
        [input_of(X)],
        {"outputs": [triton.InferRequestedOutput("w")]},
        "INVALID_ARGUMENT",
    ),
    "classes of text": (
        "strings",
        [input_of(np.array([b"one"], dtype=object), "text", "BYTES")],
        {"outputs": [triton.InferRequestedOutput("same", class_count=2)]},
        "INVALID_ARGUMENT",
    ),
    "an unknown region": ("linear", [IN_NO_REGION], {}, "NOT_FOUND"),
    "too little time": ("slow", SLOW, {"client_timeout": 0.2}, "DEADLINE_EXCEEDED"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_its_errors_carry_the_status_of_triton(client, case):
    model, inputs, options, status = ERRORS[case]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, **options)
    assert caught.value.status() == f"StatusCode.{status}"
    assert caught.value.message()


def test_a_call_that_is_not_served_is_unimplemented(client):
    with pytest.raises(InferenceServerException) as caught:
        client.get_trace_settings()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "TraceSetting" in caught.value.message()


def test_its_classes_are_values_and_indices(client, toys):
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    found = client.infer("linear", [input_of(X)], outputs=wanted).as_numpy("y")
    assert found.shape == (2, 2)
    best = [[int(text.split(b":")[1]) for text in row] for row in found]
    np.testing.assert_array_equal(best, np.argsort(-right_answer(toys, X))[:, :2])


def test_an_error_in_its_stream_is_told_and_the_stream_goes_on(client, toys):
    answers: queue.Queue = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for model in ("linear", "other", "linear"):
        client.async_stream_infer(model, [input_of(X)], request_id=model)
    found = [answers.get(timeout=60) for _ in range(3)]
    client.stop_stream()
    assert [error is None for _, error in found] == [True, False, True]
    assert "'other' is not known" in found[1][1].message()
    np.testing.assert_allclose(found[2][0].as_numpy("y"), right_answer(toys, X), rtol=1e-5)


def test_load_and_unload_are_unavailable_without_explicit_control(client):
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException) as caught:
            call("linear")
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        assert "--model-control explicit" in caught.value.message()


def counts(client):
    """What perf_analyzer reads before and after it sends."""
    found = client.get_inference_statistics("linear", "2").model_stats
    (stats,) = found
    inside = stats.inference_stats
    durations = {
        name: (getattr(inside, name).count, getattr(inside, name).ns)
        for name in ("success", "queue", "compute_input", "compute_infer", "compute_output")
    }
    return stats.inference_count, stats.execution_count, durations


def test_perf_analyzers_sequence_of_calls_finds_what_it_needs(client):
    """Its own order: who is there, what the model takes, counts, requests, counts."""
    assert client.is_server_live()
    assert "statistics" in client.get_server_metadata().extensions
    assert client.is_model_ready("linear")
    metadata = client.get_model_metadata("linear")
    config = client.get_model_config("linear").config
    assert config.max_batch_size == 8
    assert not config.model_transaction_policy.decoupled
    assert [tensor.name for tensor in config.input] == [tensor.name for tensor in metadata.inputs]
    before = counts(client)
    answers: queue.Queue = queue.Queue()
    for number in range(40):
        client.async_infer(
            metadata.name, [input_of(X)],
            lambda result, error: answers.put((result, error)),
            request_id=str(number),
        )  # fmt: skip
    assert [answers.get(timeout=60)[1] for _ in range(40)] == [None] * 40
    after = counts(client)
    assert after[0] - before[0] == 80
    assert 0 < after[1] - before[1] <= 40
    for name, (count, ns) in after[2].items():
        assert count - before[2][name][0] == 40, name
        assert ns > before[2][name][1], name


def test_both_clients_get_the_same_answer_in_one_process(server, client):
    with Client(server.address) as ours:
        mine = ours.infer("linear", {"x": X})["y"]
    theirs = client.infer("linear", [input_of(X)]).as_numpy("y")
    np.testing.assert_array_equal(mine, theirs)
    # The two have messages of the same full name and do not mix.
    assert type(client.get_model_metadata("linear")) is not ModelMetadataResponse


OURS = "from runtime.client import Client; import runtime.server"
THEIRS = "import tritonclient.grpc as triton"
BOTH = """
import sys
import numpy as np
{first}
{second}
x = np.ones((1, 4), np.float32)
given = triton.InferInput("x", [1, 4], "FP32")
given.set_data_from_numpy(x)
theirs = triton.InferenceServerClient(sys.argv[1]).infer("linear", [given]).as_numpy("y")
with Client(sys.argv[1]) as client:
    ours = client.infer("linear", {{"x": x}})["y"]
assert (ours == theirs).all() and ours.shape == (1, 3)
print("same")
"""


@pytest.mark.parametrize(("first", "second"), [(OURS, THEIRS), (THEIRS, OURS)])
def test_both_clients_share_a_process_in_either_order(server, first, second):
    program = BOTH.format(first=first, second=second)
    ran = subprocess.run(
        [sys.executable, "-c", program, server.address],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.stdout == "same\n", ran.stderr
