"""The best classes of an output, in Triton's form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import ModelInferRequest
from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import Status
from runtime.service.classification import classes_from_array


@pytest.mark.parametrize(
    ("array", "count", "labels", "wanted"),
    [
        ([[0.25, 2.0, -1.0]], 2, (), [[b"2.000000:1", b"0.250000:0"]]),
        ([[1.0, 3.0], [5.0, 2.0]], 1, ("a", "b"), [[b"3.000000:1:b"], [b"5.000000:0:a"]]),
        ([[7.0, 7.0, 7.0]], 3, ("a", "b"), [[b"7.000000:0:a", b"7.000000:1:b", b"7.000000:2"]]),
        ([[1.0, 2.0]], 99, (), [[b"2.000000:1", b"1.000000:0"]]),
        (np.array([[3, 250]], np.uint8), 2, (), [[b"250:1", b"3:0"]]),
        (np.array([[-(2**62), 5]], np.int64), 2, (), [[b"5:1", f"{-(2**62)}:0".encode()]]),
        (np.zeros((0, 3), np.float32), 2, (), []),
        (np.zeros((2, 0), np.float32), 2, (), [[], []]),
        ([[[1.0, 2.0], [4.0, 3.0]]], 2, (), [[b"4.000000:2", b"3.000000:3"]]),
    ],
)
def test_the_largest_values_come_first_row_by_row(array, count, labels, wanted):
    found = classes_from_array(np.asarray(array), count, labels, batched=True)
    assert found.tolist() == wanted


def test_without_a_batch_the_whole_output_is_one_sample():
    found = classes_from_array(np.array([[1.0, 4.0], [3.0, 2.0]]), 3, (), batched=False)
    assert found.tolist() == [b"4.000000:1", b"3.000000:2", b"2.000000:3"]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12), st.integers(1, 14))
def test_equal_values_are_in_the_order_of_their_index(values, count):
    found = classes_from_array(np.array([values]), count, (), batched=True)[0].tolist()
    ordered = sorted(range(len(values)), key=lambda index: (-values[index], index))
    assert found == [f"{values[index]}:{index}".encode() for index in ordered[:count]]


X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def classified(count=2, output="y", model="linear"):
    request = request_from_arrays({"x": X}, model=model, outputs=[output])
    request.outputs[0].parameters["classification"].int64_param = count
    return request


async def test_a_request_gets_classes_with_the_labels_of_the_file(
    write_toy, open_service, repository, toys, ask
):
    write_toy("linear")
    config = repository / "linear" / "config.pbtxt"
    text = config.read_text().replace('name: "y"', 'name: "y" label_filename: "labels.txt"')
    config.write_text(text)
    (repository / "linear" / "labels.txt").write_text("cat\ndog\n")
    servicer = await open_service()
    response = await ask(servicer, "ModelInfer", classified(count=3))
    (output,) = response.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 3])
    y = toys["linear"].compute({"x": X})["y"]
    found = arrays_from_response(response)["y"].tolist()
    for row, classes in zip(y, found, strict=True):
        indices = [int(text.split(b":")[1]) for text in classes]
        assert indices == np.argsort(-row).tolist()
        names = [text.split(b":")[2:] for text in classes]
        assert names == [[[b"cat"], [b"dog"], []][index] for index in indices]


async def test_a_labels_file_that_is_missing_keeps_the_model_from_service(
    write_toy, open_service, repository, ask, status_of
):
    write_toy("linear")
    config = repository / "linear" / "config.pbtxt"
    config.write_text(config.read_text().replace('name: "y"', 'name: "y" label_filename: "no.txt"'))
    status, text = await status_of(ask(await open_service(), "ModelInfer", classified()))
    assert status is Status.UNAVAILABLE
    assert "no.txt cannot be read" in text


@pytest.mark.parametrize("count", [0, -1, 2**40])
async def test_a_number_of_classes_that_cannot_be_is_refused(servicer, count, ask, status_of):
    status, text = await status_of(ask(servicer, "ModelInfer", classified(count)))
    assert status is Status.INVALID_ARGUMENT
    assert "at least 1" in text


async def test_text_has_no_best_class(write_toy, open_service, ask, status_of):
    write_toy("strings")
    servicer = await open_service(unproved=True)
    request = request_from_arrays(
        {"text": np.array([b"a"], dtype=object)}, model="strings", outputs=["same"]
    )
    request.outputs[0].parameters["classification"].int64_param = 1
    status, text = await status_of(ask(servicer, "ModelInfer", request))
    assert status is Status.INVALID_ARGUMENT
    assert "no best classes" in text


async def test_the_parameter_has_to_be_a_number(servicer, ask, status_of):
    request = ModelInferRequest.FromString(classified().SerializeToString())
    request.outputs[0].parameters["classification"].string_param = "2"
    status, _ = await status_of(ask(servicer, "ModelInfer", request))
    assert status is Status.INVALID_ARGUMENT
