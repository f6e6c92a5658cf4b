"""Requests are read off their bytes as the long way reads them, or are left to it."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos import ModelInferRequest
from runtime.codec import arrays_from_request, request_from_arrays
from runtime.errors import InvalidInput
from runtime.request_forms import Forms
from runtime.tensors import BY_NAME, TensorSpec

SPECS = {
    "x": TensorSpec("x", "float32", ("batch", 3)),
    "y": TensorSpec("y", "int64", ("batch",)),
}
OUTPUT = {"z": TensorSpec("z", "float32", ("batch",)), "load": TensorSpec("load", "int32", (1,))}


class Model:
    """What a form is fitted to."""

    def __init__(self, inputs=SPECS, most=8):
        self.record = SimpleNamespace(inputs=inputs, outputs=OUTPUT, on_request=("load",))
        self.most = most

    def check_sizes(self, shapes):
        if any(shape and shape[0] > self.most for shape in shapes.values()):
            raise InvalidInput("too many")


def request(x=(2, 3), y=(2,), **names):
    arrays = {
        "x": np.arange(np.prod(x), dtype=np.float32).reshape(x),
        "y": np.arange(np.prod(y), dtype=np.int64).reshape(y),
    }
    return request_from_arrays(arrays, model="m", **names)


def read(message, model=None, forms=None):
    """The inputs as the short way reads them; none where it leaves them to the long way."""
    payload = message if isinstance(message, bytes) else message.SerializeToString()
    usual = (forms or Forms()).read(payload)
    fit = usual.form.fit(model or Model()) if usual else None
    return usual.arrays(fit, payload) if fit else None


def test_usual_inputs_are_read_as_they_were_sent():
    arrays = read(request())
    np.testing.assert_array_equal(arrays["x"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["y"], [0, 1])
    assert not arrays["x"].flags.writeable


def test_inputs_come_in_the_order_of_the_model():
    swapped = request()
    swapped.inputs.reverse()
    swapped.raw_input_contents.reverse()
    arrays = read(swapped)
    assert list(arrays) == ["x", "y"]
    np.testing.assert_array_equal(arrays["y"], [0, 1])


def test_names_id_and_outputs_are_those_of_the_message():
    forms = Forms()
    for number in ("", "7", "\u00fc" * 200, "8"):
        message = request(version="3", request_id=number, outputs=["z"])
        usual = forms.read(message.SerializeToString())
        assert (usual.request_id, usual.form.model_name) == (number, "m")
        assert usual.form.model_version == "3"
        assert usual.form.fit(Model()).outputs == ["z"]
    assert len(forms._forms) == 1, "the id is no part of it"


def test_outputs_on_request_are_left_out_where_none_is_named():
    usual = Forms().read(request().SerializeToString())
    assert usual.form.fit(Model()).outputs == ["z"]
    assert usual.form.fit(Model()).shapes == ((3,), ())


def test_each_request_has_its_own_data():
    forms, specs = Forms(), {"x": TensorSpec("x", "float32", ("batch", 4))}
    for value in range(5):
        data = np.full((2, 4), value, np.float32)
        message = request_from_arrays({"x": data}, model="m")
        np.testing.assert_array_equal(read(message, Model(specs), forms)["x"], data)
    assert len(forms._heads) == 1


def test_a_form_is_fitted_anew_to_another_version():
    forms = Forms()
    assert read(request(), Model(), forms) is not None
    assert read(request(), Model(most=1), forms) is None
    other = Model({**SPECS, "y": TensorSpec("y", "int32", ("batch",))})
    assert read(request(), other, forms) is None
    assert read(request(), Model(), forms) is not None


def test_a_form_keeps_no_model_alive():
    forms, model = Forms(), Model()
    assert read(request(), model, forms) is not None
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


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
    "a parameter": lambda m: m.parameters["priority"].SetInParent(),
    "an output in classes": lambda m: m.outputs.add(name="z").parameters["classification"],
    "an output that is not there": lambda m: m.outputs.add(name="q"),
    "an output twice": lambda m: [m.outputs.add(name="z") for _ in "ab"],
}


@pytest.mark.parametrize("change", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_what_is_unusual_goes_the_long_way(change):
    message = request()
    change(message)
    assert read(message) is None


@pytest.mark.parametrize("dtype", ["bool", "string"])
def test_types_whose_bytes_are_to_be_checked_go_the_long_way(dtype):
    message = ModelInferRequest(model_name="m", raw_input_contents=[b"\7"])
    message.inputs.add(name="x", datatype=BY_NAME[dtype].wire, shape=[1])
    assert read(message, Model({"x": TensorSpec("x", dtype, ("batch",))})) is None


GOOD = request(request_id="id", outputs=["z"]).SerializeToString()


@given(st.data())
def test_damaged_bytes_are_read_as_the_long_way_reads_them_or_not_at_all(data):
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "add"]))
        if kind == "set":
            damaged[at] = data.draw(st.integers(0, 255))
        elif kind == "add":
            damaged.insert(at, data.draw(st.integers(0, 255)))
        elif at:
            del damaged[at:]
    payload = bytes(damaged)
    usual = Forms().read(payload)
    arrays = read(payload)
    if arrays is None:
        return
    message = ModelInferRequest.FromString(payload)
    assert (message.model_name, message.id) == (usual.form.model_name, usual.request_id)
    wanted = arrays_from_request(message, SPECS)
    for name, array in wanted.items():
        assert array.tobytes() == arrays[name].tobytes()


def test_forms_take_no_more_memory_than_they_may(monkeypatch):
    monkeypatch.setattr("runtime.request_forms._MOST_FORMS", 4)
    forms = Forms()
    for rows in range(1, 9):
        assert read(request((rows, 3), (rows,)), Model(), forms) is not None
    assert len(forms._forms) <= 4
    long = request_from_arrays({"x": np.zeros((1, 3), np.float32)}, model="m" * 5000)
    assert forms.read(long.SerializeToString()) is None
