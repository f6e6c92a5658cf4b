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
    np.testing.assert_allclose(result.as_numpy("total"), right_answer(toys, X).sum(1), rtol=1e-4)
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
    input_of(np.array(1_000_000), "times", "INT64"),
]
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
    "classes": (
        "linear",
        [input_of(X)],
        {"outputs": [triton.InferRequestedOutput("y", class_count=2)]},
        "UNIMPLEMENTED",
    ),
    "too little time": ("slow", SLOW, {"client_timeout": 0.2}, "DEADLINE_EXCEEDED"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_its_errors_carry_the_status_of_triton(client, case):
    model, inputs, options, status = ERRORS[case]
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, inputs, **options)
    assert caught.value.status() == f"StatusCode.{status}"
    assert caught.value.message()


def test_a_call_of_triton_that_is_not_served_is_unimplemented(client):
    with pytest.raises(InferenceServerException) as caught:
        client.get_model_repository_index()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "RepositoryIndex" in caught.value.message()


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
