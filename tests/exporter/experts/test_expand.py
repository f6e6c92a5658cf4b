"""The expansion keeps the graph's names, metadata and weights, and chooses by the token count."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from exporter.experts import check, choose
from exporter.experts.choose import plan_layers, token_range
from exporter.experts.node import moe_nodes, read_node
from exporter.layers import SCOPES, module_map
from exporter.passes.expand_experts import expand_experts
from exporter.passes.run import run_passes
from runtime.errors import ExportError, InvalidInput

FORMS = ["sorted", "static", "fused", "auto"]


def info(name, *shape, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def chain(graph_of, first, second, inner="inner"):
    """Two layers, one after the other, with the same scores; the second's load is not read."""
    nodes = [first.node("x", inner, "load"), second.node(inner, "y", "load_of_second")]
    weights = {**first.stored(), **second.stored()}
    inputs = [info("x", "T", 5), info("choice", "T", 4)]
    outputs = [info("y", "T", 5), info("load", "T", 4, kind=TensorProto.INT32)]
    model = graph_of(nodes, inputs, outputs, weights)
    model.graph[0].outputs[0].shape = ir.Shape(["T", 5])
    return model


def stored_bytes(model):
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stacked", [False, True])
def test_two_layers_keep_apart_and_compute_one_after_the_other(
    layer_of, graph_of, run_graph, form, stacked
):
    first = layer_of(stacked=stacked)
    second = layer_of(stacked=stacked, path="blocks.1.moe", seed=5)
    model = run_passes(chain(graph_of, first, second), [expand_experts(form)])
    names = [node.name for graph in model.graphs() for node in graph]
    values = [v.name for graph in model.graphs() for node in graph for v in node.outputs]
    assert len(set(names)) == len(names)
    assert len(set(values)) == len(values)
    assert all(name.startswith(("blocks.0.moe/", "blocks.1.moe/")) for name in names)
    arrays = first.inputs((6,))
    outputs = run_graph(model, arrays)
    middle, load = first.compute(arrays)
    y, _ = second.compute({**arrays, "x": middle})
    np.testing.assert_allclose(outputs["y"], y, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(outputs["load"], load)


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_that_is_called_twice_shares_its_weights(layer_of, graph_of, run_graph, form):
    layer = layer_of()
    model = run_passes(chain(graph_of, layer, layer), [expand_experts(form, {"T": (1, 64)})])
    assert stored_bytes(model) == sum(array.nbytes for array in layer.stored().values())
    arrays = layer.inputs((6,))
    middle, _ = layer.compute(arrays)
    y, _ = layer.compute({**arrays, "x": middle})
    np.testing.assert_allclose(run_graph(model, arrays)["y"], y, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("names", [("up", "up_bias", "down"), ("gate_up", "down")])
def test_weights_are_stored_once_and_in_one_layout(layer_of, form, stacked, names):
    if "gate_up" in names:
        layer = layer_of(names=names, stacked=stacked, activation="silu")
    else:
        layer = layer_of(names=names, stacked=stacked)
    model, _ = expand_experts(form, {"T": (1, 64)})(layer.model())
    assert stored_bytes(model) == sum(array.nbytes for array in layer.stored().values())
    for name, value in model.graph.initializers.items():
        assert name.startswith("blocks.0.moe.")
        assert value.uses()


def test_the_sorted_form_reads_the_modules_own_parameters(layer_of):
    layer = layer_of()
    model, _ = expand_experts("sorted")(layer.model())
    assert set(model.graph.initializers) == set(layer.stored())


@pytest.mark.parametrize("form", FORMS)
def test_every_node_keeps_the_layers_metadata_so_that_the_module_map_holds(layer_of, form):
    model = layer_of().model()
    before = module_map(model)
    model, changed = expand_experts(form)(model)
    assert changed
    scopes = "['', 'blocks.0.moe', 'moe']"
    assert {n.metadata_props.get(SCOPES) for g in model.graphs() for n in g} == {scopes}
    after = module_map(model)
    assert before["y"].module == "blocks.0.moe"
    assert {name: after[name].module for name in before} == {
        name: origin.module for name, origin in before.items()
    }


def test_a_load_that_nothing_reads_leaves_no_nodes(layer_of):
    with_load, _ = expand_experts("fused")(layer_of(rank=3).model())
    without, _ = expand_experts("fused")(layer_of(rank=3).model(load=False))
    kinds = {node.op_type for node in without.graph}
    assert len(without.graph) < len(with_load.graph)
    assert not kinds & {"Equal", "ReduceSum", "Softmax"}
    for node in without.graph:
        assert any(value.uses() or value.is_graph_output() for value in node.outputs)


def test_the_opaque_domain_is_gone_and_the_operators_is_there(layer_of):
    model, _ = expand_experts("fused")(layer_of().model())
    assert dict(model.graph.opset_imports) == {"": 20, "com.microsoft": 1}
    model, _ = expand_experts("sorted")(layer_of().model())
    assert dict(model.graph.opset_imports) == {"": 20}


def test_a_graph_without_expert_layers_stays(graph_of):
    node = helper.make_node("Relu", ["x"], ["y"])
    model = graph_of([node], [info("x", "T")], [info("y", "T")], {})
    assert expand_experts()(model)[1] is False


def test_names_that_the_graph_has_already_are_left_to_it(layer_of, graph_of):
    model = chain(graph_of, layer_of(), layer_of(path="blocks.1.moe"), inner="blocks.0.moe/TopK")
    onnx.checker.check_model(ir.to_proto(expand_experts("sorted")(model)[0]))


def test_auto_takes_the_operator_for_one_token_and_sorts_many(layer_of):
    def kinds(low, high):
        model, _ = expand_experts("auto", {"T": (low, high)})(layer_of().model())
        return {node.op_type for node in model.graph}

    assert "MoE" in kinds(1, 1)
    assert {"Split", "Gemm"} <= kinds(2, 64)
    assert "If" not in kinds(2, 64)
    assert "If" in kinds(1, 64)


def test_one_graph_for_a_wide_range_runs_both_forms(layer_of, run_graph):
    layer = layer_of(experts=8, rank=3)
    ranges = {"rows": (1, 8), "tokens": (1, 8)}
    model, _ = expand_experts("auto", ranges)(layer.model())
    (choice,) = [node for node in model.graph if node.op_type == "If"]
    inside = {
        name: {node.op_type for node in choice.attributes.get_graph(name)}
        for name in ("then_branch", "else_branch")
    }
    assert "MoE" in inside["then_branch"]
    assert "Gemm" in inside["else_branch"]
    for leading in ((1, 1), (1, 2), (4, 4), (0, 1)):
        arrays = layer.inputs(leading)
        y, load = layer.compute(arrays)
        outputs = run_graph(model, arrays)
        np.testing.assert_allclose(outputs["y"], y, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(outputs["load"], load)


def test_large_weights_are_not_loaded_twice(layer_of, monkeypatch):
    monkeypatch.setattr(choose, "RUN_TIME_CHOICE_BYTES", 100)
    model, _ = expand_experts("auto", {"T": (1, 64)})(layer_of().model())
    assert "If" not in {node.op_type for node in model.graph}


def test_auto_sorts_where_the_operator_has_no_such_layer(layer_of):
    model, _ = expand_experts("auto", {"T": (1, 1)})(layer_of(activation="gelu").model())
    assert "Gemm" in {node.op_type for node in model.graph}


def test_auto_sorts_where_the_operator_disagrees(layer_of, monkeypatch, caplog):
    monkeypatch.setattr(check, "_difference", lambda *_: "its load is not that")
    model, _ = expand_experts("auto", {"T": (1, 1)})(layer_of().model())
    assert "Gemm" in {node.op_type for node in model.graph}
    assert "its load is not that" in caplog.text


@pytest.mark.parametrize(
    ("leading", "ranges", "wanted"),
    [
        (["T"], {"T": (1, 16)}, (1, 16)),
        (["25*batch"], {"batch": (1, 4)}, (25, 100)),
        (["batch", 25], {"batch": (2, 4)}, (50, 100)),
        (["rows", "tokens"], {"rows": (1, 4), "tokens": (1, 8)}, (1, 32)),
        ([3, 7], {}, (21, 21)),
        (["T"], {}, (0, float("inf"))),
        (["rows", None], {"rows": (2, 4)}, (0, float("inf"))),
    ],
)
def test_the_tokens_of_a_call_are_the_product_of_the_leading_axes(
    layer_of, leading, ranges, wanted
):
    model = layer_of(rank=len(leading) + 1).model()
    model.graph.inputs[0].shape = ir.Shape([*leading, 5])
    (node,) = moe_nodes(model)
    assert token_range(read_node(node), ranges) == wanted


def test_a_form_of_another_name_is_refused(layer_of):
    with pytest.raises(InvalidInput, match="'dense'; wanted one of auto, sorted, static, fused"):
        expand_experts("dense")(layer_of().model())


def test_a_plan_says_in_words_what_was_chosen(layer_of):
    (node,) = moe_nodes(layer_of().model())
    moe = read_node(node)
    (plan,) = plan_layers([moe], "auto", {"T": (1, 64)})
    assert str(plan) == "fused up to 1 token, sorted above"
    (plan,) = plan_layers([moe], "static", {})
    assert str(plan) == "static"


def test_a_weight_that_the_graph_computes_is_refused_by_name(layer_of):
    layer = layer_of()
    model = layer.model()
    (node,) = moe_nodes(model)
    node.replace_input_with(3, node.inputs[2])
    with pytest.raises(ExportError, match=r"'choice' of layer 'blocks.0.moe' is computed"):
        expand_experts("sorted")(model)
