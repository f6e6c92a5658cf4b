"""``twinport diff``: a page for people, one object for programs, a code where it is asked for."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper


@pytest.fixture
def other(lenet, tmp_path):
    """The same graph with one bias of fc2 moved, outside of a repository."""
    model = onnx.load(lenet.folder / "model.onnx")
    bias = next(item for item in model.graph.initializer if item.name == "fc2.bias")
    moved = numpy_helper.to_array(bias) + np.float32(0.25)
    bias.CopyFrom(numpy_helper.from_array(moved, "fc2.bias"))
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    return path


def test_the_same_version_twice_is_the_same(run, lenet):
    code, out, err = run("diff", lenet.folder, lenet.folder, "--exit-code", "--no-speed")
    assert (code, err) == (0, "")
    assert "the two files are the same, byte for byte" in out
    assert "nodes: the same" in out


def test_a_moved_weight_is_shown_with_its_module_and_its_effect(run, lenet, other):
    code, out, err = run("diff", lenet.folder.parent, other)
    assert (code, err) == (0, "")
    row = next(line for line in out.splitlines() if line.strip().startswith("fc2 "))
    assert "1 of 2" in row
    assert "2.50e-01" in row
    assert "on the evidence of lenet5/1, 48 rows" in out
    assert "ratio" in out


def test_a_file_without_a_manifest_has_the_modules_of_the_version_beside_it(run, lenet, tmp_path):
    model = onnx.load(lenet.folder / "model.onnx")
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "LeakyRelu"
    onnx.save(model, tmp_path / "other.onnx")
    code, out, _ = run("diff", lenet.folder, tmp_path / "other.onnx", "--no-speed")
    assert code == 0
    assert "nodes of relu1: changed node_relu (Relu to LeakyRelu)" in out
    assert "Relu nodes: 4 and 3" in out


def test_a_difference_is_an_exit_code_where_that_is_asked_for(run, lenet, other):
    code, out, err = run("diff", lenet.folder, other, "--exit-code", "--no-speed", "--json")
    assert (code, err) == (1, "")
    record = json.loads(out)
    assert record["differs"] is True
    assert record["speed"] is None
    assert record["numbers"][0]["relative_rms"] > 0
    assert {item["module"] for item in record["weights"]} >= {"conv1", "fc2"}


def test_bad_input_is_one_line_and_exit_1(run, lenet, tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes((lenet.folder / "model.onnx").read_bytes()[:-100])
    for second in (path, tmp_path / "nowhere"):
        code, out, err = run("diff", lenet.folder, second)
        assert (code, out) == (1, "")
        assert err.startswith("twinport: ")
        assert err.count("\n") == 1
