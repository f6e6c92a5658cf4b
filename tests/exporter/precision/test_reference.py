"""What no runtime here can run is judged with onnx.reference, its sums kept in float32."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.precision.kinds import FLOATS
from exporter.precision.lower import lower_floats
from exporter.precision.reference import ReferenceBackend
from runtime.errors import InvalidInput, RepositoryError
from runtime.tensors import spec_from_text

BF16 = FLOATS["bf16"]
X, Y = spec_from_text("x:float32[n,400]"), spec_from_text("y:float32[n,1]")


@pytest.fixture
def backend(graph_of, tmp_path):
    model = graph_of("""g (float[N,400] x) => (float[N,1] y) {
        y = ReduceMean <keepdims = 1> (x, axes)
    }""", axes=np.array([1]))  # fmt: skip
    low, _ = lower_floats(BF16, {"node_y"})(model)
    ir.save(low, tmp_path / "model.onnx")
    return ReferenceBackend(tmp_path / "model.onnx", [X], [Y])


def test_bf16_is_evaluated_and_gives_float32(backend):
    x = np.random.RandomState(0).uniform(1, 2, (3, 400)).astype(np.float32)
    y = backend.infer({"x": x})["y"]
    low = BF16.dtype.numpy()
    # The mean of the rounded values, rounded once: not 400 sums that are rounded each.
    right = x.astype(low).astype(np.float32).mean(1, keepdims=True).astype(low).astype(np.float32)
    assert y.dtype == np.float32
    assert np.array_equal(y, right)


def test_it_says_that_it_is_no_runtime(backend):
    identity = backend.identity
    assert (identity.backend, identity.provider) == ("onnx.reference", "ReferenceEvaluator")
    assert identity.library.startswith("onnx 1.")
    assert not backend.captures


def test_outputs_may_be_named_and_refused_inputs_are_one_error(backend):
    assert backend.infer({"x": np.ones((1, 400), np.float32)}, []) == {}
    with pytest.raises(InvalidInput, match=r"^onnx\.reference: "):
        backend.infer({"another": np.ones((1, 400), np.float32)})


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(RepositoryError, match=r"onnx\.reference cannot load model\.onnx"):
        ReferenceBackend(tmp_path / "model.onnx", [X], [Y])
