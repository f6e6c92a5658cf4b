"""What the load generator sends."""

from __future__ import annotations

import numpy as np
import pytest

from protos import ModelInferRequest
from runtime.bench.inputs import VARIANTS, drawn, requests_for
from runtime.client_wire import ServedModel
from runtime.codec import arrays_from_request
from runtime.errors import InvalidInput, NotFound
from runtime.properties import ModelProperties
from runtime.tensors import BY_NAME, TensorSpec

X = TensorSpec("x", "float32", ("batch", 4))


def model(*specs):
    return ServedModel("m", ("1",), "onnxruntime_onnx", specs, (), ModelProperties())


def arrays_of(payload, *specs):
    return arrays_from_request(ModelInferRequest.FromString(payload), {s.name: s for s in specs})


def test_draws_fit_the_model_and_take_turns():
    requests = requests_for(model(X), rows=3)
    assert (len(requests.payloads), requests.rows) == (VARIANTS, 3)
    arrays = [arrays_of(payload, X)["x"] for payload in requests.payloads]
    assert arrays[0].shape == (3, 4)
    assert not np.array_equal(arrays[0], arrays[1])
    assert requests_for(model(X), rows=3) == requests, "the same at every run"


@pytest.mark.parametrize("dtype", BY_NAME)
def test_every_data_type_can_be_drawn(dtype):
    spec = TensorSpec("x", dtype, ("batch", 2, "wide"))
    (array,) = drawn((spec,), 5, {"wide": 3})[0].values()
    assert array.shape == (5, 2, 3)
    assert array.dtype == (object if dtype == "string" else np.dtype(dtype))


def test_an_axis_that_the_model_lacks_is_refused_with_those_that_it_has():
    with pytest.raises(InvalidInput, match="no free axis 'y'; there are wide"):
        drawn((TensorSpec("x", "int64", ("batch", "wide")),), 1, {"y": 3})


def test_a_model_without_a_batch_takes_no_rows():
    spec = TensorSpec("x", "float32", ("x_0", 4))
    assert requests_for(model(spec)).rows == 1
    with pytest.raises(InvalidInput, match="no batch axis"):
        requests_for(model(spec), rows=2)


@pytest.mark.parametrize(("rows", "values"), [(None, [0, 1, 2]), (2, [0, 1]), (4, [0, 1, 2, 0])])
def test_a_file_gives_as_many_rows_as_are_wanted(rows, values, tmp_path):
    file = tmp_path / "x.npy"
    np.save(file, np.arange(3, dtype=np.float32)[:, None].repeat(4, 1))
    requests = requests_for(model(X), rows=rows, file=file)
    assert requests.rows == len(values)
    assert arrays_of(requests.payloads[0], X)["x"][:, 0].tolist() == values


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(NotFound):
        requests_for(model(X), file=tmp_path / "none.npy")


def test_a_request_that_grpc_cannot_send_is_refused_before_it_is_drawn():
    with pytest.raises(InvalidInput, match="a request has 3200000000000 bytes"):
        drawn((X,), 200_000_000_000, {})
    assert len(drawn((X,), 2**22, {})) == 4, "of large requests there are fewer"
