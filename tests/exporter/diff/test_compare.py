"""Differences are found where they are: in nodes, shapes, weights, numbers; others are not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from exporter.diff.compare import compare
from exporter.diff.graphs import weight_changes
from exporter.diff.runs import output_numbers
from exporter.layer_proof.owners import OwnedGraph
from runtime.errors import InvalidInput, ManifestError, NotFound


def graph(path, *, nodes=None, weights=None, axes=("batch", 4), outputs=("y",)):
    """Two layers: ``y = relu(x @ first.weight) @ second.weight``."""
    draw = np.random.RandomState(0)
    stored = {
        "first.weight": draw.standard_normal((4, 6)).astype(np.float32),
        "second.weight": draw.standard_normal((6, 3)).astype(np.float32),
        **(weights or {}),
    }
    nodes = nodes or [
        helper.make_node("MatMul", ["x", "first.weight"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "act"),
        helper.make_node("MatMul", ["r", "second.weight"], ["y"], "second"),
    ]
    made = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.fixture
def base(tmp_path):
    return graph(tmp_path / "a.onnx")


def test_a_file_differs_in_nothing_from_itself(base):
    found = compare(base, base)
    assert found.same_file
    assert not found.differs
    assert found.numbers[0].labels == 1.0
    assert found.speed is not None
    assert found.speed.a_ms > 0
    assert found.inputs == "inputs drawn with seed 0"


def test_nodes_are_added_removed_and_changed_by_name(base, tmp_path):
    other = graph(tmp_path / "b.onnx", nodes=[
        helper.make_node("MatMul", ["x", "first.weight"], ["h"], "first"),
        helper.make_node("LeakyRelu", ["h"], ["r"], "act", alpha=0.5),
        helper.make_node("Neg", ["r"], ["n"], "sign"),
        helper.make_node("MatMul", ["n", "second.weight"], ["y"], "second"),
    ])  # fmt: skip
    found = compare(base, other, speed=False)
    assert found.operators == {"LeakyRelu": (0, 1), "Neg": (0, 1), "Relu": (1, 0)}
    changes = {name: getattr(found.nodes[0], name) for name in ("added", "removed", "changed")}
    assert changes == {
        "added": ("sign (Neg)",), "removed": (),
        "changed": ("act (Relu to LeakyRelu)", "second (MatMul)"),
    }  # fmt: skip
    assert found.numbers[0].relative_rms > 0.1
    assert found.speed is None


def test_weights_are_compared_by_module(base, tmp_path):
    weight = np.random.RandomState(0).standard_normal((4, 6)).astype(np.float32)
    moved = weight.copy()
    moved[0, 0] += np.float32(0.5)
    other = graph(tmp_path / "b.onnx", weights={"first.weight": moved})
    found = compare(base, other, speed=False)
    by_module = {item.module: item for item in found.weights}
    assert by_module["second"].same
    first = by_module["first"]
    assert (first.tensors, first.equal) == (1, 0)
    assert first.largest == pytest.approx(0.5)
    assert first.relative_rms == pytest.approx(0.5 / np.sqrt(np.square(weight).sum()), rel=1e-5)
    assert not found.nodes


def test_a_weight_of_another_shape_is_removed_and_added(base, tmp_path):
    other = graph(tmp_path / "b.onnx", weights={"second.weight": np.ones((6, 1), np.float32)})
    found = compare(base, other, speed=False)
    second = next(item for item in found.weights if item.module == "second")
    assert (second.added, second.removed) == (("second.weight",), ("second.weight",))
    assert any("shape" in item.note for item in found.numbers)


def test_shapes_of_inputs_and_missing_outputs_are_named(base, tmp_path):
    other = graph(tmp_path / "b.onnx", axes=(7, 4), outputs=("y", "r2"), nodes=[
        helper.make_node("MatMul", ["x", "first.weight"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "act"),
        helper.make_node("MatMul", ["r", "second.weight"], ["y"], "second"),
        helper.make_node("Neg", ["y"], ["r2"], "more"),
    ])  # fmt: skip
    found = compare(base, other, speed=False)
    facts = {fact.what: (fact.a, fact.b) for fact in found.shapes}
    assert facts["input x"] == ("float[batch,4]", "float[7,4]")
    assert facts["output r2"] == ("not there", "float[batch,3]")
    assert any("numbers and speed" in line for line in found.left_out)


def test_two_versions_run_on_the_evidence_of_one(lenet):
    found = compare(lenet.folder, lenet.folder.parent, speed=False)
    assert found.a == found.b == "lenet5/1"
    assert found.inputs == "the evidence of lenet5/1, 48 rows"
    assert {item.module for item in found.weights} >= {"conv1", "fc3"}
    assert not found.differs


def test_what_cannot_be_loaded_is_left_out_with_the_reason(base, tmp_path):
    strange = graph(tmp_path / "b.onnx", nodes=[
        helper.make_node("Unheard", ["x"], ["y"], "strange", domain="nobody"),
    ])  # fmt: skip
    found = compare(base, strange)
    assert found.numbers == ()
    assert found.left_out[0].startswith("numbers and speed: ")
    assert found.differs


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08"])
def test_what_is_no_onnx_file_is_refused(content, base, tmp_path):
    path = tmp_path / "b.onnx"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"b\.onnx is not an ONNX model"):
        compare(base, path)


def test_a_truncated_file_is_refused(base, tmp_path):
    path = tmp_path / "b.onnx"
    path.write_bytes(base.read_bytes()[:-20])
    with pytest.raises(InvalidInput, match="is not an ONNX model"):
        compare(base, path)


def test_what_is_not_there_is_named(base, tmp_path):
    with pytest.raises(NotFound, match="nowhere does not exist"):
        compare(base, tmp_path / "nowhere")


def test_a_broken_manifest_is_named(base, tmp_path):
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ManifestError, match="is not JSON"):
        compare(base, tmp_path / "m")


def test_an_engine_is_compared_by_what_its_manifest_says(lenet, tmp_path):
    from dataclasses import replace
    from shutil import copytree

    from runtime.manifest import EngineRecord, manifest_to_text, read_manifest

    folder = tmp_path / "lenet5_trt" / "1"
    copytree(lenet.folder, folder)
    (folder / "model.engine").write_bytes(b"ftrt" + bytes(28))
    manifest = read_manifest(folder / "manifest.json")
    engine = EngineRecord("tensorrt", "11.4.0", "lenet5/1", "0", (), False, 3, None, "none", False)
    artifact = replace(
        manifest.artifact, file="model.engine", format="engine", engine=engine, precision="fp16"
    )
    text = manifest_to_text(replace(manifest, name="lenet5_trt", artifact=artifact))
    (folder / "manifest.json").write_text(text)
    found = compare(lenet.folder, folder)
    facts = {fact.what: (fact.a, fact.b) for fact in found.facts}
    assert facts["precision"] == ("fp32", "fp16")
    assert facts["format"] == ("onnx", "engine")
    assert found.left_out[0].startswith("nodes and weights: lenet5_trt/1 is an engine")
    assert found.left_out[1].startswith("numbers and speed: ")


def test_quantised_weights_are_compared_as_what_they_stand_for(tmp_path):
    def model(nodes, weights):
        made = helper.make_graph(
            [*nodes, helper.make_node("MatMul", ["x", "w"], ["y"], "fc")], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )  # fmt: skip
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)

    plain = model([], {"w": np.array([[1, 20], [3, 41]], np.float32)})
    dequantise = helper.make_node("DequantizeLinear", ["w.int8", "w.scale"], ["w"], axis=1)
    lower = model([dequantise], {
        "w.int8": np.array([[1, 2], [3, 4]], np.int8),
        "w.scale": np.array([1, 10], np.float32),
    })  # fmt: skip
    (found,) = weight_changes(*((item, OwnedGraph(item, {})) for item in (plain, lower)))
    assert (found.tensors, found.equal, found.added, found.removed) == (1, 0, (), ())
    assert found.largest == 1
    assert found.relative_rms == pytest.approx(1 / np.sqrt(1 + 400 + 9 + 41**2))


class Answering:
    """A backend with one output of three classes and a hidden one of five."""

    outputs = ("logits", "hidden")

    def infer(self, _call):
        return {"logits": np.eye(3, dtype=np.float32), "hidden": np.eye(5, dtype=np.float32)}


@pytest.mark.parametrize(
    ("classes", "labels"), [({3}, [1.0, None]), (set(), [None, None]), (None, [1.0, 1.0])]
)
def test_labels_are_those_of_outputs_that_have_classes(classes, labels):
    found = output_numbers(Answering(), Answering(), [{}], classes)
    assert [item.labels for item in found] == labels
