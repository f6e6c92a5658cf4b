"""Passes keep the graph's ends, and what is left of torch's notes names no file."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from exporter.layers import SCOPES
from exporter.passes.conditions import all_is_read, is_ordered, names_differ
from exporter.passes.run import GraphPass, graph_pass, run_passes
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


def test_a_pass_whose_condition_does_not_hold_is_named_before_and_after(model):
    def never(given):
        return "the graph is not as it must be"

    @graph_pass(requires=(never,))
    def begins(given):
        raise AssertionError("it must not run")

    @graph_pass(ensures=(never,))
    def ends(given):
        return given, False

    with pytest.raises(ExportError, match=r"^pass begins cannot begin: the graph is not as it"):
        run_passes(model, [begins])
    with pytest.raises(ExportError, match=r"^pass ends did not do its work: the graph is not"):
        run_passes(model, [ends])


def test_a_pass_that_gives_a_node_to_another_module_is_refused(model):
    def move(given):
        next(iter(given.graph)).metadata_props[SCOPES] = "['', 'other', 'relu']"
        return given, True

    with pytest.raises(ExportError, match="pass move moved node 'relu' from module 'relu' to 'ot"):
        run_passes(model, [move])


@pytest.mark.parametrize(
    ("text", "condition", "said"),
    [
        ("net (float[n] x) => (float y) { y = Add (x, a) a = Neg (x) }", is_ordered,
         "node 'node_y' reads 'a', which is not there yet"),
        ("net (float[n] x) => (float y) { a = Neg (x) y = Neg (x) }", all_is_read,
         "nothing reads node 'node_a'"),
        ("net (float[n] x) => (float y) { [one] a = Neg (x) [one] y = Neg (a) }", names_differ,
         "there are two nodes 'one'"),
    ],
)  # fmt: skip
def test_conditions_say_what_is_wrong(model_of, text, condition, said):
    assert condition(model_of(text)) == said


def test_every_pass_of_the_main_flow_says_what_it_leaves():
    from exporter.passes.tidy import TIDY

    for change in TIDY:
        assert isinstance(change, GraphPass)
        assert change.requires
        assert change.ensures


def test_weights_beyond_what_the_checker_takes_stay_away_from_it(model_of, monkeypatch):
    """Two gigabytes end a message; a low limit shows that large weights are not in it."""
    from exporter.passes import run

    wide = np.zeros((1, 4096), np.float32)
    big = model_of("net (float[n,4096] x) => (float y) { y = Add (x, k) }", k=wide)
    checked = []
    monkeypatch.setattr(run.onnx.checker, "check_model", checked.append)
    run_passes(big, [])
    assert checked[0].ByteSize() < 1000
    assert [value.name for value in checked[0].graph.input] == ["x", "k"]
    assert list(big.graph.initializers) == ["k"]
