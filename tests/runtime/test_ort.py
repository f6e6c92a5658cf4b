"""ONNX Runtime's errors become ours: the node and what is wrong, without codes and paths."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from runtime.backends.base import BackendOptions
from runtime.backends.ort import OrtBackend, products_saturate
from runtime.errors import InvalidInput, RepositoryError, Status, TwinportError


@pytest.fixture
def backend(tmp_path):
    """``y = table[at]`` and ``z = x`` in another shape."""
    nodes = [
        helper.make_node("Gather", ["table", "at"], ["y"], name="embedding"),
        helper.make_node("Reshape", ["x", "shape"], ["z"], name="view"),
    ]
    tensor, table = helper.make_tensor_value_info, np.zeros((3, 2), np.float32)
    inputs = [
        tensor("at", TensorProto.INT64, ["n"]),
        tensor("x", TensorProto.FLOAT, ["m"]),
        tensor("shape", TensorProto.INT64, ["rank"]),
    ]
    outputs = [tensor("y", TensorProto.FLOAT, ["n", 2]), tensor("z", TensorProto.FLOAT, None)]
    weights = [numpy_helper.from_array(table, "table")]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 20)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "net.onnx")
    opened = OrtBackend(tmp_path / "net.onnx", BackendOptions())
    yield opened
    opened.close()


@pytest.mark.parametrize("leaf", ["ort", "ort_cuda"])
def test_the_library_leaves_nothing_in_the_users_home_and_has_nothing_to_send(
    leaf, tmp_path, backend
):
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    del environment["ORT_DISABLE_TELEMETRY"]
    code = (
        f"import runtime.backends.{leaf} as leaf, sys; "
        "leaf.ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.onnx")]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert list(home.rglob("*")) == []


def said(backend, **changes):
    arrays = {
        "at": np.array([0]), "x": np.zeros(6, np.float32), "shape": np.array([2, 3]),
    } | changes  # fmt: skip
    with pytest.raises(InvalidInput) as caught:
        backend.infer(arrays)
    return str(caught.value)


def test_a_node_that_fails_is_named_with_what_is_wrong(backend):
    assert said(backend, at=np.array([9])) == (
        "ONNX Runtime: Gather 'embedding': indices element out of data bounds, idx=9 must be "
        "within the inclusive range [-3,2]"
    )


def test_places_in_the_librarys_own_sources_are_left_out(backend):
    text = said(backend, shape=np.array([5]))
    assert text.startswith("ONNX Runtime: Reshape 'view': ")
    assert "Input shape:{6}, requested shape:{5}" in text
    assert "/onnxruntime_src" not in text


def test_an_error_of_no_node_keeps_its_text_without_the_codes(backend):
    assert said(backend, x=np.zeros(6, np.float64)) == (
        "ONNX Runtime: Unexpected input data type. Actual: (tensor(double)) , "
        "expected: (tensor(float))"
    )


def test_a_lack_of_memory_is_not_the_requests_fault(tmp_path):
    node = helper.make_node("ConstantOfShape", ["shape"], ["y"])
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b"])
    opsets = [helper.make_opsetid("", 20)]
    graph = helper.make_graph([node], "net", [shape], [y])
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "net.onnx")
    opened = OrtBackend(tmp_path / "net.onnx", BackendOptions())
    with pytest.raises(TwinportError, match="Failed to allocate memory") as caught:
        opened.infer({"shape": np.array([10**8, 10**6])})
    assert caught.value.status == Status.INTERNAL
    opened.close()


def test_a_file_that_does_not_load_is_named_without_its_folder(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(RepositoryError) as caught:
        OrtBackend(tmp_path / "bad.onnx", BackendOptions())
    assert str(caught.value) == ("bad.onnx cannot be loaded: it is not ONNX (wire type 6)")


@pytest.mark.parametrize(
    ("flags", "saturate"),
    [
        ("flags : fpu sse4_1 avx avx2 fma", True),
        ("flags : avx2 avx512f avx512bw", True),
        ("flags : avx2 avx512f avx512_vnni", False),
        ("flags : avx2 avx_vnni", False),
        ("Features : fp asimd asimddp", False),
    ],
)
def test_products_of_int8_saturate_on_x86_without_vnni(flags, saturate):
    assert products_saturate(flags) is saturate
