"""The view has one node an expert layer, is valid, and is still the same model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.experts.node import moe_nodes
from exporter.experts.view import expert_view
from exporter.passes.expand_experts import expand_experts

KINDS = [
    {},
    {"rank": 3},
    {"names": ("gate_up", "down"), "stacked": True, "activation": "silu", "own_scores": True,
     "score": "sigmoid", "normalise": "sum", "epsilon": 1e-20, "scale": 2.5},
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_many_experts_is_one_node_that_runs(layer_of, run_graph, kind):
    layer = layer_of(**kind, experts=16)
    view = expert_view(layer.model())
    (node,) = view.graph
    assert (node.domain, node.op_type, node.name) == ("twinport", "MoE", "blocks.0.moe")
    assert node.attributes.get_int("experts") == 16
    assert len(node.inputs) <= 7
    arrays = layer.inputs((7,) if layer.rank == 2 else (2, 3))
    outputs = run_graph(view, arrays)
    y, load = layer.compute(arrays)
    np.testing.assert_allclose(outputs["y"], y, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(outputs["load"], load)


def test_the_model_itself_stays_as_it_was(layer_of):
    model = layer_of().model()
    before = ir.to_proto(model).SerializeToString()
    view = expert_view(model)
    assert ir.to_proto(model).SerializeToString() == before
    assert len(moe_nodes(model)) == 1
    assert len(view.graph.initializers) == 4
    assert expand_experts("sorted")(model)[1]


def test_layers_of_two_kinds_are_two_functions(layer_of, run_graph, graph_of):
    first, same = layer_of(), layer_of(path="blocks.1.moe", seed=3)
    other = layer_of(path="blocks.2.moe", k=1, seed=4)
    nodes = [first.node("x", "a", "load"), same.node("a", "b", "l1"), other.node("b", "y", "l2")]
    proto = ir.to_proto(first.model())
    weights = {**first.stored(), **same.stored(), **other.stored()}
    model = graph_of(nodes, proto.graph.input, proto.graph.output, weights)
    for value in (node.outputs[0] for node in model.graph):
        value.shape, value.type = ir.Shape(["T", 5]), ir.TensorType(ir.DataType.FLOAT)
    view = expert_view(model)
    assert [node.op_type for node in view.graph] == ["MoE", "MoE", "MoE_2"]
    arrays = first.inputs((6,))
    wanted = arrays
    for layer in (first, same, other):
        wanted = {**wanted, "x": layer.compute(wanted)[0]}
    np.testing.assert_allclose(run_graph(view, arrays)["y"], wanted["x"], rtol=1e-3, atol=1e-3)
