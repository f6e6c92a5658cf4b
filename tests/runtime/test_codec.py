"""Messages to arrays and back; whatever is malformed is refused with both sides named."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from protos import ModelInferRequest, ModelInferResponse
from runtime.codec import (
    CONTENTS,
    arrays_from_request,
    arrays_from_response,
    request_from_arrays,
    requested_outputs,
    response_from_arrays,
)
from runtime.errors import InvalidInput, TwinportError, Unimplemented
from runtime.tensors import BY_NAME, TensorSpec, numpy_dtype

NUMBERS = [name for name, dtype in BY_NAME.items() if dtype.size]
IMAGE = {"image": TensorSpec("image", "float32", ("batch", 2))}


def spec_of(name, array, dtype):
    return TensorSpec(name, dtype, array.shape)


def request_with(dtype="FP32", shape=(1, 2), raw=None, name="image", **contents):
    request = ModelInferRequest(model_name="m")
    tensor = request.inputs.add(name=name, datatype=dtype, shape=shape)
    for field, values in contents.items():
        getattr(tensor.contents, field).extend(values)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


def typed_request(name, array, dtype):
    values = array.reshape(-1).tolist()
    return request_with(BY_NAME[dtype].wire, array.shape, name=name, **{CONTENTS[dtype]: values})


def number_arrays(dtype):
    return npst.arrays(numpy_dtype(dtype), npst.array_shapes(min_dims=0, max_dims=4, min_side=0))


any_number_array = st.sampled_from(NUMBERS).flatmap(number_arrays)
string_array = npst.array_shapes(min_dims=0, max_dims=3, min_side=0).flatmap(
    lambda shape: st.lists(
        st.binary(max_size=9), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))
    ).map(lambda items: object_array(items, shape))
)


def object_array(items, shape):
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def same(left, right):
    assert left.dtype == right.dtype
    assert left.shape == right.shape
    if left.dtype == object:
        assert left.tolist() == right.tolist()
    else:
        assert left.tobytes() == right.tobytes()  # NaN included


@given(st.one_of(any_number_array, string_array))
def test_a_raw_request_gives_back_what_was_put_in(array):
    dtype = "string" if array.dtype == object else array.dtype.name
    message = request_from_arrays({"x": array}, model="m").SerializeToString()
    request = ModelInferRequest.FromString(message)
    same(arrays_from_request(request, {"x": spec_of("x", array, dtype)})["x"], array)


@given(st.sampled_from([name for name in CONTENTS if name != "string"]).flatmap(number_arrays))
def test_typed_contents_give_back_what_was_put_in(array):
    dtype = array.dtype.name
    request = typed_request("x", array, dtype)
    same(arrays_from_request(request, {"x": spec_of("x", array, dtype)})["x"], array)


@given(string_array)
def test_typed_strings_give_back_what_was_put_in(array):
    request = typed_request("x", array, "string")
    same(arrays_from_request(request, {"x": spec_of("x", array, "string")})["x"], array)


@given(st.one_of(any_number_array, string_array))
def test_a_response_gives_back_what_was_put_in_and_the_caller_owns_it(array):
    message = response_from_arrays(
        {"y": array, "z": array}, model="m", version="3", request_id="r"
    ).SerializeToString()
    response = ModelInferResponse.FromString(message)
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "r")
    answers = arrays_from_response(response)
    assert list(answers) == ["y", "z"]
    same(answers["y"], array)
    assert answers["y"].flags.writeable


def test_a_typed_response_of_another_server_is_read():
    response = ModelInferResponse(model_name="m")
    tensor = response.outputs.add(name="y", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1.5, 2.5])
    np.testing.assert_array_equal(arrays_from_response(response)["y"], np.float32([1.5, 2.5]))


def test_every_data_type_has_its_field_and_only_half_floats_go_raw_only():
    assert set(BY_NAME) - set(CONTENTS) == {"float16"}


def test_raw_numbers_are_not_copied_and_cannot_be_written():
    request = request_with(raw=bytes(8))
    array = arrays_from_request(request, IMAGE)["image"]
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_an_array_in_another_memory_order_is_sent_row_by_row():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    request = request_from_arrays({"x": array}, model="m")
    specs = {"x": TensorSpec("x", "float32", (3, 2))}
    np.testing.assert_array_equal(arrays_from_request(request, specs)["x"], array)


def test_a_big_endian_array_arrives_with_its_values():
    array = np.arange(4, dtype=">i4")
    response = response_from_arrays({"y": array}, model="m", version="1")
    np.testing.assert_array_equal(arrays_from_response(response)["y"], [0, 1, 2, 3])


def test_text_is_sent_as_utf_8():
    request = request_from_arrays({"s": np.array(["ä", "b"])}, model="m")
    specs = {"s": TensorSpec("s", "string", ("n",))}
    assert arrays_from_request(request, specs)["s"].tolist() == ["ä".encode(), b"b"]


def test_inputs_come_in_the_order_of_the_model():
    specs = {name: TensorSpec(name, "int64", ("n",)) for name in ("a", "b")}
    one, two = np.zeros(1, np.int64), np.ones(1, np.int64)
    arrays = arrays_from_request(request_from_arrays({"b": two, "a": one}, model="m"), specs)
    assert list(arrays) == ["a", "b"]
    assert arrays["b"][0] == 1


STRINGS = {"s": TensorSpec("s", "string", (2,))}
SMALL = {"x": TensorSpec("x", "int8", (2,))}

MALFORMED = [
    (request_with(name="picture", raw=bytes(8)), IMAGE, "input 'picture' is not known; .* image"),
    (ModelInferRequest(), IMAGE, r"input 'image' is missing; the model wants float32 \[batch, 2\]"),
    (request_with("FP99", raw=bytes(8)), IMAGE, "data type 'FP99'; use one of BOOL"),
    (request_with("BF16", raw=bytes(4)), IMAGE, "data type 'BF16'; use one of BOOL"),
    (request_with("FP64", raw=bytes(16)), IMAGE, "data type float64; the model wants float32"),
    (request_with("FP64", raw=bytes(8)), IMAGE, "data type float64; the model wants float32"),
    (
        request_with("FP64", fp32_contents=[1, 2]),
        IMAGE,
        "data type float64; the model wants float32",
    ),
    (request_with(shape=(1, 3), raw=bytes(12)), IMAGE, r"shape \[1, 3\]; the model wants"),
    (request_with(shape=(2,), raw=bytes(8)), IMAGE, r"shape \[2\]; the model wants"),
    (request_with(shape=(-1, 2), raw=bytes(8)), IMAGE, r"shape \[-1, 2\]; sizes cannot be neg"),
    (request_with(shape=(2**62, 2**62), raw=b"1"), IMAGE, "which no memory can hold"),
    (request_with(shape=(2**62, 2**62, 0), raw=b""), IMAGE, "which no memory can hold"),
    (request_with(shape=[1] * 40, raw=bytes(4)), IMAGE, "40 axes; at most 32"),
    (request_with(raw=bytes(7)), IMAGE, r"7 bytes; FP32 \[1, 2\] takes 8"),
    (request_with(raw=bytes(9)), IMAGE, r"9 bytes; FP32 \[1, 2\] takes 8"),
    (request_with(raw=b""), IMAGE, r"0 bytes; FP32 \[1, 2\] takes 8"),
    (request_with(), IMAGE, r"0 elements in fp32_contents; FP32 \[1, 2\] takes 2"),
    (request_with(fp32_contents=[1]), IMAGE, r"1 elements in fp32_contents; FP32 \[1, 2\] takes 2"),
    (request_with(int_contents=[1, 2]), IMAGE, "FP32 with data in int_contents; fp32_contents"),
    (request_with(raw=bytes(8), fp32_contents=[1, 2]), IMAGE, "use one of the two for all"),
    (
        request_with("FP16"),
        {"image": TensorSpec("image", "float16", ("batch", 2))},
        "FP16, which contents cannot hold; send it raw",
    ),
    (
        request_with("INT8", (2,), name="x", int_contents=[1, 300]),
        SMALL,
        "element 300; INT8 takes -128 to 127",
    ),
    (
        request_with("BOOL", (2,), raw=b"\x01\x02", name="x"),
        {"x": TensorSpec("x", "bool", (2,))},
        "a byte other than 0 and 1",
    ),
    (request_with("BYTES", (2,), b"\0\0", "s"), STRINGS, "inside the length of element 0"),
    (
        request_with("BYTES", (2,), struct.pack("<I", 5) + b"abc", "s"),
        STRINGS,
        "inside element 0, which should have 5 bytes",
    ),
    (request_with("BYTES", (2,), bytes(4), "s"), STRINGS, r"1 elements; BYTES \[2\] takes 2"),
    (request_with("BYTES", (2,), bytes(9), "s"), STRINGS, "1 bytes after its 2 elements"),
    (request_with("BYTES", (2**40, 2**40), b"", "s"), STRINGS, "which no memory can hold"),
]


@pytest.mark.parametrize(("request_", "specs", "text"), MALFORMED)
def test_a_malformed_request_is_refused_with_what_was_given_and_wanted(request_, specs, text):
    with pytest.raises(InvalidInput, match=text):
        arrays_from_request(request_, specs)


def test_one_input_twice_is_refused():
    request = request_with(raw=bytes(8))
    request.inputs.add(name="image", datatype="FP32", shape=[1, 2])
    request.raw_input_contents.append(bytes(8))
    with pytest.raises(InvalidInput, match="'image' is there twice"):
        arrays_from_request(request, IMAGE)


@pytest.mark.parametrize("buffers", [1, 3])
def test_another_number_of_buffers_than_of_inputs_is_refused(buffers):
    specs = {name: TensorSpec(name, "uint8", (1,)) for name in ("a", "b")}
    request = request_from_arrays({n: np.zeros(1, np.uint8) for n in specs}, model="m")
    del request.raw_input_contents[:]
    request.raw_input_contents.extend([b"\0"] * buffers)
    with pytest.raises(InvalidInput, match=f"{buffers} buffers for 2 inputs"):
        arrays_from_request(request, specs)


def test_an_axis_that_two_inputs_share_has_one_size():
    specs = {name: TensorSpec(name, "uint8", ("batch",)) for name in ("a", "b")}
    arrays = {"a": np.zeros(2, np.uint8), "b": np.zeros(3, np.uint8)}
    with pytest.raises(InvalidInput, match="'batch' is 2 already"):
        arrays_from_request(request_from_arrays(arrays, model="m"), specs)


def test_a_long_name_does_not_fill_the_error():
    request = request_with(name="x" * 10_000, raw=bytes(8))
    with pytest.raises(InvalidInput) as caught:
        arrays_from_request(request, IMAGE)
    assert len(str(caught.value)) < 200


def test_data_in_shared_memory_is_said_to_be_unknown_here():
    request = request_with()
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(Unimplemented, match="shared memory"):
        arrays_from_request(request, IMAGE)


def test_without_names_every_output_is_sent_but_those_on_request():
    assert requested_outputs(ModelInferRequest(), ["a", "load", "b"], ["load"]) == ["a", "b"]


def test_named_outputs_are_sent_in_the_order_of_the_client():
    request = ModelInferRequest()
    for name in ("load", "a"):
        request.outputs.add(name=name)
    assert requested_outputs(request, ["a", "load", "b"], ["load"]) == ["load", "a"]


@pytest.mark.parametrize(
    ("names", "text"),
    [(["c"], "output 'c' is not known; .* a, b"), (["a", "a"], "asked for twice")],
)
def test_an_unknown_or_repeated_output_is_refused(names, text):
    request = ModelInferRequest()
    for name in names:
        request.outputs.add(name=name)
    with pytest.raises(InvalidInput, match=text):
        requested_outputs(request, ["a", "b"])


@pytest.mark.parametrize("array", [np.zeros(1, np.complex64), np.zeros(1, "datetime64[s]")])
def test_a_type_that_the_protocol_lacks_is_refused(array):
    with pytest.raises(InvalidInput, match="input 'x' has data type"):
        request_from_arrays({"x": array}, model="m")


def test_an_object_that_is_no_text_is_refused():
    with pytest.raises(InvalidInput, match="element of type int"):
        request_from_arrays({"x": np.array([1], dtype=object)}, model="m")


@pytest.mark.parametrize(
    ("arrays", "fields", "said"),
    [
        ([np.zeros(1)], {}, "the inputs are a list; wanted arrays by name"),
        ({"x": [0.0]}, {}, "input 'x' is a list; wanted a NumPy array"),
        ({1: np.zeros(1)}, {}, "input 0 is 1, a int; wanted text"),
        ({}, {"model": 5}, "model is 5, a int; wanted text"),
        ({}, {"version": 1}, "version is 1, a int; wanted text"),
        ({}, {"request_id": 7}, "request_id is 7, a int; wanted text"),
        ({}, {"outputs": "y"}, "the outputs are the text 'y'; wanted a list"),
        ({}, {"outputs": ["y", 3]}, "output 1 is 3, a int; wanted text"),
    ],
)
def test_what_no_request_can_be_made_of_is_refused(arrays, fields, said):
    with pytest.raises(InvalidInput, match=said):
        request_from_arrays(arrays, **{"model": "m", **fields})


wire_names = st.sampled_from(["FP32", "FP16", "BOOL", "INT8", "INT64", "BYTES", "BF16", "", "X"])
dims = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 4), max_size=5)


@st.composite
def wild_requests(draw):
    request = ModelInferRequest(model_name="m")
    for _ in range(draw(st.integers(0, 3))):
        tensor = request.inputs.add(
            name=draw(st.sampled_from(["a", "b", ""])), datatype=draw(wire_names), shape=draw(dims)
        )
        if draw(st.booleans()):
            tensor.contents.fp32_contents.extend(draw(st.lists(st.just(0.5), max_size=3)))
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(), max_size=2)))
    request.raw_input_contents.extend(draw(st.lists(st.binary(max_size=40), max_size=3)))
    return request


@given(wild_requests(), st.sampled_from(["float32", "string", "bool", "int8"]))
def test_no_request_whatever_brings_anything_but_an_error_of_ours(request_, dtype):
    specs = {name: TensorSpec(name, dtype, ("n", 2)) for name in ("a", "b")}
    try:
        arrays = arrays_from_request(request_, specs)
    except InvalidInput:
        return
    assert all(array.shape[1] == 2 for array in arrays.values())


@given(st.binary(max_size=200))
def test_random_bytes_bring_nothing_but_an_error_of_ours(data):
    try:
        arrays_from_response(ModelInferResponse.FromString(data))
        arrays_from_request(ModelInferRequest.FromString(data), {})
    except (DecodeError, TwinportError):
        return


@given(
    st.binary(max_size=60),
    st.sampled_from([dtype.wire for dtype in BY_NAME.values()]),
    st.lists(st.integers(0, 5), max_size=3),
)
def test_random_data_is_either_read_whole_or_refused(data, wire, shape):
    response = ModelInferResponse(raw_output_contents=[data])
    response.outputs.add(name="y", datatype=wire, shape=shape)
    try:
        array = arrays_from_response(response)["y"]
    except InvalidInput:
        return
    again = response_from_arrays({"y": array}, model="", version="")
    assert again.raw_output_contents[0] == data


def test_an_axis_of_0_beside_huge_ones_is_the_clients_error():
    spec = TensorSpec("x", "float32", ("batch", "n", "k"))
    message = ModelInferRequest(model_name="m", raw_input_contents=[b""])
    message.inputs.add(name="x", datatype="FP32", shape=[0, 2**40, 2**40])
    with pytest.raises(InvalidInput, match="no memory can hold"):
        arrays_from_request(message, {"x": spec})
