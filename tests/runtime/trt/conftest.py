"""Small models as engines of the stand-in."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.backends.factory import open_backend

WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
SMALL = {"x": [[1, 4], [4, 4], [8, 4]]}
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def model(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made.SerializeToString()


def linear():
    """``y = x @ WEIGHT`` and the sum of each row."""
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="multiply"),
            helper.make_node("ReduceSum", ["y", "axis"], ["total"], keepdims=0),
        ],
        [("x", "float32", ["batch", 4])],
        [("y", "float32", ["batch", 3]), ("total", "float32", ["batch"])],
        [("w", WEIGHT), ("axis", np.array([1]))],
    )


@pytest.fixture(scope="session")
def expand():
    """``y`` is ``x`` in the shape that ``sizes`` holds."""
    return model(
        [helper.make_node("Expand", ["x", "sizes"], ["y"])],
        [("x", "float32", [1, 2]), ("sizes", "int64", [2])],
        [("y", "float32", ["n", "m"])],
    )


@pytest.fixture(scope="session")
def nonzero():
    """Where ``x`` is not zero, and its double."""
    return model(
        [
            helper.make_node("NonZero", ["x"], ["where"]),
            helper.make_node("Add", ["x", "x"], ["twice"]),
        ],
        [("x", "float32", ["n"])],
        [("where", "int64", [1, "found"]), ("twice", "float32", ["n"])],
    )


@pytest.fixture(scope="session", name="rows")
def rows_fixture():
    """Inputs of the linear model, other ones for each seed."""
    return rows


def rows(count, seed=0):
    return np.random.RandomState(seed).standard_normal((count, 4)).astype(np.float32)


@pytest.fixture
def load(standin, tmp_path):
    """Write a plan for the stand-in and load it; everything has to be given back at the end."""
    opened = []

    def load(graph=None, profiles=(SMALL,), options=None, **described):
        path = tmp_path / "model.engine"
        path.write_bytes(standin.tensorrt._plan_bytes(graph or linear(), profiles, **described))
        backend = open_backend("tensorrt", path, options)
        opened.append(backend)
        return backend

    yield load
    for backend in opened:
        backend.close()
    assert standin.state.held() == []


@pytest.fixture(scope="session")
def check_linear():
    """Hold all answers of the linear model to NumPy's."""

    def check(backend, count, seed=0):
        x = rows(count, seed)
        answers = backend.infer({"x": x})
        assert set(answers) == {"y", "total"}
        np.testing.assert_allclose(answers["y"], x @ WEIGHT, rtol=1e-5)
        np.testing.assert_allclose(answers["total"], (x @ WEIGHT).sum(1), rtol=1e-5, atol=1e-6)

    return check


@pytest.fixture
def calls_of(standin):
    """The arguments of every call of that name so far."""

    def calls_of(name):
        return [arguments for called, arguments in standin.state.calls if called == name]

    return calls_of
