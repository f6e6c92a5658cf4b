"""Files that a model has its weights in: found without a library, and refused where unsafe."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from runtime.backends.base import BackendOptions
from runtime.backends.ort import OrtBackend
from runtime.errors import RepositoryError
from runtime.external_data import check_external_data, external_references

WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3)


def tensor_in(location, *, name="w", **entries):
    tensor = TensorProto(name=name, dims=WEIGHTS.shape, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def write_model(path, *tensors, nodes=(), functions=()):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(
        [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], list(tensors)
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model.functions.extend(functions)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path):
    """A model whose weights lie in ``w.data`` after eight other bytes."""
    (tmp_path / "w.data").write_bytes(b"8 others" + WEIGHTS.tobytes())
    return write_model(tmp_path / "m.onnx", tensor_in("w.data", offset=8, length=48))


def test_a_whole_file_beside_the_model_is_read(model):
    check_external_data(model)
    x = np.ones((2, 4), np.float32)
    y = OrtBackend(model, BackendOptions()).infer({"x": x})["y"]
    np.testing.assert_allclose(y, x @ WEIGHTS)


def test_tensors_are_found_wherever_onnx_may_have_them(tmp_path):
    def constant(name):
        return helper.make_node("Constant", [], [name], value=tensor_in(f"{name}.data"))

    def graph(name):
        empty = helper.make_tensor_value_info(name, TensorProto.FLOAT, [])
        tensor = tensor_in(f"{name}_i.data", name="i")
        return helper.make_graph([constant(name)], name, [], [empty], [tensor])

    sparse = onnx.SparseTensorProto(values=tensor_in("values.data"))
    branch = helper.make_node("If", ["c"], ["z"], then_branch=graph("a"), else_branch=graph("b"))
    opset = [helper.make_opsetid("", 20)]
    function = helper.make_function("own", "F", [], ["f"], [constant("f")], opset)
    path = write_model(
        tmp_path / "m.onnx",
        tensor_in("w.data"),
        functions=[function],
        nodes=[branch, helper.make_node("Constant", [], ["s"], sparse_value=sparse)],
    )
    assert {item.file for item in external_references(path)} == {
        "w.data", "a.data", "b.data", "a_i.data", "b_i.data", "values.data", "f.data",
    }  # fmt: skip


def test_a_model_without_other_files_names_none(tmp_path):
    path = write_model(tmp_path / "m.onnx", onnx.numpy_helper.from_array(WEIGHTS, "w"))
    assert external_references(path) == []


@pytest.mark.parametrize(
    "location",
    ["../w.data", "/etc/passwd", "sub/w.data", "..", "", "w\0.data", "a\\b", "./w.data",
     "*/_ORT_MEM_ADDR_/*"],
)  # fmt: skip
def test_a_place_that_is_no_plain_name_is_refused_before_the_library_opens_it(
    model, location, monkeypatch
):
    (model.parent.parent / "w.data").write_bytes(b"8 others" + WEIGHTS.tobytes())
    write_model(model, tensor_in(location, offset=8, length=48))
    monkeypatch.setattr("runtime.backends.ort.ort.InferenceSession", None)
    with pytest.raises(RepositoryError, match="wanted a file beside it, by its name alone") as told:
        OrtBackend(model, BackendOptions())
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "m.onnx has weights in 'w.data', which is missing beside it"),
        (lambda path: (path.unlink(), path.mkdir()), "which is no plain file beside it"),
        (lambda path: (path.rename(path.parent.parent / "else"),
                       path.symlink_to(path.parent.parent / "else")), "is no plain file beside"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]),
         "w.data ends at byte 55; m.onnx has weights up to 56: the file is cut"),
    ],
)  # fmt: skip
def test_a_file_that_is_missing_or_cut_or_leads_elsewhere_is_refused(model, spoil, said):
    spoil(model.with_name("w.data"))
    with pytest.raises(RepositoryError, match=said):
        OrtBackend(model, BackendOptions())


@pytest.mark.parametrize(
    "data",
    [b"no model", b"", b"\xff" * 11, b"\x3a\x05\x0a", b"\x3a\x03\x2a\x7f\x0a", b"\x0b\x0c",
     b"\x09\x00"],
)  # fmt: skip
def test_bytes_that_are_not_onnx_are_refused(tmp_path, data):
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(RepositoryError, match=r"^m.onnx cannot be loaded: it is not ONNX \("):
        check_external_data(tmp_path / "m.onnx")


@pytest.mark.parametrize("entry", [{"offset": "-8"}, {"length": "1e9"}, {"offset": "٣"}])
def test_a_place_that_is_no_number_is_refused(model, entry):
    write_model(model, tensor_in("w.data", **entry))
    with pytest.raises(RepositoryError, match="is no place in a file"):
        check_external_data(model)


def test_every_cut_of_a_model_is_read_or_refused_in_one_line(model):
    whole = model.read_bytes()
    for end in range(len(whole)):
        model.write_bytes(whole[:end])
        try:
            check_external_data(model)
        except RepositoryError as error:
            assert "\n" not in str(error)  # noqa: PT017
