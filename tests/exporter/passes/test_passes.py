"""Passes keep the graph's ends, and what is left of torch's notes names no file."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from exporter.layers import SCOPES
from exporter.passes.run import run_passes
from exporter.passes.strip_provenance import strip_provenance
from runtime.errors import ExportError


@pytest.fixture
def model():
    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"])

    node = helper.make_node("Relu", ["x"], ["y"], name="relu", doc_string="/home/me/net.py")
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="/home/me/net.py, line 3")
    node.metadata_props.add(key=SCOPES, value="['', 'relu', 'relu']")
    graph = helper.make_graph([node], "g", [info("x")], [info("y")], doc_string="/home/me")
    graph.metadata_props.add(key="pkg.torch.export.graph", value="/home/me")
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
                              doc_string="/home/me")  # fmt: skip
    proto.metadata_props.add(key="where", value="/home/me")
    return ir.from_proto(proto)


def test_notes_of_the_machine_go_and_the_scopes_stay(model):
    stripped, changed = strip_provenance(model)
    assert changed
    data = ir.to_proto(stripped).SerializeToString()
    assert b"/home/me" not in data
    (node,) = stripped.graph
    assert node.metadata_props == {SCOPES: "['', 'relu', 'relu']"}


def test_a_second_time_there_is_nothing_to_do(model):
    assert strip_provenance(strip_provenance(model)[0])[1] is False


def test_passes_run_in_their_order(model):
    seen = []

    def first(given):
        seen.append("first")
        return given, False

    def second(given):
        seen.append("second")
        return given, True

    assert run_passes(model, [first, second]) is model
    assert seen == ["first", "second"]


def test_a_pass_that_renames_an_end_is_named(model):
    def rename_output(given):
        given.graph.outputs[0].name = "z"
        return given, True

    with pytest.raises(ExportError, match="pass rename_output changed the graph's inputs or out"):
        run_passes(model, [rename_output])


def test_a_graph_that_is_no_onnx_is_refused(model):
    def break_node(given):
        next(iter(given.graph)).op_type = "NoSuchOperator"
        return given, True

    with pytest.raises(
        ExportError, match=r"the graph is not valid ONNX: .*NoSuchOperator"
    ) as caught:
        run_passes(model, [break_node])
    assert "\n" not in str(caught.value)
