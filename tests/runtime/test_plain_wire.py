"""The short way gives what the long way gives, and leaves to it what is unusual."""

from __future__ import annotations

import numpy as np
import pytest

from protos import ModelInferRequest, ModelInferResponse
from runtime.codec import arrays_from_request, request_from_arrays, response_from_arrays
from runtime.errors import InvalidInput
from runtime.plain_wire import PlainAnswers, plain_inputs
from runtime.tensors import BY_NAME, TensorSpec

SPECS = {
    "x": TensorSpec("x", "float32", ("batch", 3)),
    "y": TensorSpec("y", "int64", ("batch",)),
}
NUMBERS = [name for name in BY_NAME if name not in ("bool", "string")]


def request(x=(2, 3), y=(2,)):
    arrays = {
        "x": np.arange(np.prod(x), dtype=np.float32).reshape(x),
        "y": np.arange(np.prod(y), dtype=np.int64).reshape(y),
    }
    return request_from_arrays(arrays, model="m")


def test_usual_inputs_are_read_as_they_were_sent():
    arrays = plain_inputs(request(), SPECS)
    np.testing.assert_array_equal(arrays["x"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["y"], [0, 1])
    assert not arrays["x"].flags.writeable


def test_inputs_come_in_the_order_of_the_model():
    swapped = request()
    swapped.inputs.reverse()
    swapped.raw_input_contents.reverse()
    arrays = plain_inputs(swapped, SPECS)
    assert list(arrays) == ["x", "y"]
    np.testing.assert_array_equal(arrays["y"], [0, 1])


def _add_twice(message):
    message.inputs[1].CopyFrom(message.inputs[0])
    message.raw_input_contents[1] = message.raw_input_contents[0]


def _cut(message):
    message.raw_input_contents[0] = message.raw_input_contents[0][:-1]


def _negative(message):
    message.inputs[0].shape[:] = [-2, -3]


def _empty(message):
    for tensor in message.inputs:
        tensor.shape[0] = 0
    message.raw_input_contents[:] = [b"", b""]


def _leave_out(message):
    message.inputs.pop()


UNUSUAL = {
    "in shared memory": lambda m: m.inputs[0].parameters["shared_memory_region"].SetInParent(),
    "in contents too": lambda m: m.inputs[0].contents.fp32_contents.append(1.0),
    "unknown name": lambda m: setattr(m.inputs[0], "name", "z"),
    "another type": lambda m: setattr(m.inputs[0], "datatype", "INT32"),
    "no type": lambda m: setattr(m.inputs[0], "datatype", "FP8"),
    "another rank": lambda m: m.inputs[0].shape.append(1),
    "another size": lambda m: m.inputs[0].shape.__setitem__(1, 4),
    "batches that differ": lambda m: m.inputs[1].shape.__setitem__(0, 3),
    "negative sizes": _negative,
    "nothing in it": _empty,
    "bytes that do not fit": _cut,
    "there twice": _add_twice,
    "one missing": _leave_out,
    "no buffers": lambda m: m.ClearField("raw_input_contents"),
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_what_is_unusual_goes_the_long_way(change):
    message = request()
    change(message)
    assert plain_inputs(message, SPECS) is None


def test_an_axis_of_0_beside_huge_ones_is_the_clients_error():
    spec = TensorSpec("x", "float32", ("batch", "n", "k"))
    message = ModelInferRequest(model_name="m", raw_input_contents=[b""])
    message.inputs.add(name="x", datatype="FP32", shape=[0, 2**40, 2**40])
    with pytest.raises(InvalidInput, match="no memory can hold"):
        arrays_from_request(message, {"x": spec})


@pytest.mark.parametrize("dtype", ["bool", "string"])
def test_types_whose_bytes_are_to_be_checked_go_the_long_way(dtype):
    message = ModelInferRequest(raw_input_contents=[b"\7"])
    message.inputs.add(name="x", datatype=BY_NAME[dtype].wire, shape=[1])
    assert plain_inputs(message, {"x": TensorSpec("x", dtype, ("batch",))}) is None


@pytest.mark.parametrize("request_id", ["", "7", "ü" * 200])
def test_answers_are_those_of_the_long_way(request_id):
    plain = PlainAnswers()
    for rows in (1, 3, 1, 0):
        arrays = {
            "logits": np.arange(rows * 400, dtype=np.float32).reshape(rows, 400),
            "best": np.arange(rows, dtype=np.int64),
        }
        data = plain.answer(arrays, model="m", version=3, request_id=request_id)
        wanted = response_from_arrays(arrays, model="m", version="3", request_id=request_id)
        assert ModelInferResponse.FromString(data) == wanted


@pytest.mark.parametrize("name", NUMBERS)
def test_every_type_of_number_is_answered(name):
    arrays = {"y": np.arange(4).astype(name)[::2]}
    data = PlainAnswers().answer(arrays, model="m", version=1)
    wanted = response_from_arrays(arrays, model="m", version="1")
    assert ModelInferResponse.FromString(data) == wanted


@pytest.mark.parametrize(
    "array", [np.array([b"a"], object), np.array([True]), np.array([1.0], ">f4")]
)
def test_other_answers_go_the_long_way(array):
    assert PlainAnswers().answer({"y": array}, model="m", version=1) is None


def test_models_and_versions_do_not_share_an_answer():
    plain = PlainAnswers()
    arrays = {"y": np.zeros(1, np.float32)}
    seen = {
        (answer.model_name, answer.model_version)
        for model in "ab"
        for version in (1, 2)
        for answer in [
            ModelInferResponse.FromString(plain.answer(arrays, model=model, version=version))
        ]
    }
    assert seen == {("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")}
