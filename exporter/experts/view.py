"""A graph for the eye: one node an expert layer, its inside an ONNX function.

The expanded graph of many experts cannot be read in Netron. This one is the same model, and
ONNX Runtime runs it, but each call gathers its experts' matrices: it is not for serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from exporter.experts.builder import Builder, Names, Weights
from exporter.experts.forms.static import build_gathered
from exporter.experts.node import (
    DOMAIN,
    FIRST_WEIGHT,
    OP_TYPE,
    MoENode,
    Weight,
    moe_nodes,
    read_node,
)
from exporter.experts.replace import drop_unused_initializers, replace_node
from exporter.experts.routing import build_load, build_routing, build_shaped

_SHOWN = ("experts", "k", "activation", "normalise", "epsilon", "scale", "score")


class _Given(Weights):
    """Inside a function weights are its inputs, stacked already."""

    def stacked(self, weights: Sequence[Weight]) -> ir.Value:
        return weights[0].source


def expert_view(model: ir.Model) -> ir.Model:
    """A copy of a model before ``expand_experts``, each opaque node a call of a function.

    Layers of one kind share one function: ``twinport.MoE``, ``twinport.MoE_2`` and so on.

    Raises:
        ExportError: A layer's node is not as the contract has it.
    """
    model = ir.from_proto(ir.to_proto(model))
    names = Names(model)
    weights = Weights(model.graph, names)
    functions: dict[tuple[object, ...], ir.Function] = {}
    for node in moe_nodes(model):
        moe = read_node(node)
        kind = _kind(moe)
        if kind not in functions:
            functions[kind] = _function(moe, model, len(functions) + 1)
        _call(moe, functions[kind], weights)
    for function in functions.values():
        model.functions[function.identifier()] = function
    return model


def _kind(moe: MoENode) -> tuple[object, ...]:
    """What two layers must share to share a function."""
    return (
        moe.experts, moe.k, moe.activation, moe.normalise, moe.epsilon, moe.scale, moe.score,
        moe.rank, moe.width, tuple(moe.weights), moe.scores is moe.choice,
    )  # fmt: skip


def _function(moe: MoENode, model: ir.Model, number: int) -> ir.Function:
    x, choice = ir.Value(name="x"), ir.Value(name="choice")
    scores = choice if moe.scores is moe.choice else ir.Value(name="scores")
    given = {name: ir.Value(name=name) for name in moe.weights}
    inside = replace(
        moe, x=x, scores=scores, choice=choice,
        weights={
            name: tuple(Weight(item.array, given[name]) for item in items)
            for name, items in moe.weights.items()
        },
    )  # fmt: skip
    names = Names(model)
    opset = model.graph.opset_imports[""]
    build = Builder(OP_TYPE, opset, {}, names, _Given(model.graph, names))
    routing = build_routing(inside, build)
    y = build_shaped(inside, build_gathered(inside, routing, build), build)
    load = build_load(inside, routing, build)
    build.drop_unused([y, load])
    ends = [x, choice] if scores is choice else [x, scores, choice]
    graph = ir.Graph(
        [*ends, *given.values()], [y, load], nodes=build.nodes, opset_imports={"": opset}
    )
    name = OP_TYPE if number == 1 else f"{OP_TYPE}_{number}"
    shown = [moe.node.attributes[name] for name in _SHOWN if name in moe.node.attributes]
    return ir.Function(DOMAIN, name, graph=graph, attributes=shown)


def _call(moe: MoENode, function: ir.Function, weights: Weights) -> None:
    """The call takes the opaque node's place under its name, values and metadata."""
    node = moe.node
    ends = [moe.x, moe.choice] if moe.scores is moe.choice else [moe.x, moe.scores, moe.choice]
    stacked = [weights.stacked(items) for items in moe.weights.values()]
    call = ir.Node(
        DOMAIN, function.name, [*ends, *stacked], function.attributes, num_outputs=2,
        name=moe.layer or node.name, metadata_props=dict(node.metadata_props),
    )  # fmt: skip
    stored = list(node.inputs[FIRST_WEIGHT:])
    replace_node(node, [call], call.outputs)
    drop_unused_initializers(weights.graph, stored)
