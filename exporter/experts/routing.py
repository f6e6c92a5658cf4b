"""Who is chosen with which weight, and how many tokens each expert received: for every form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.experts.builder import Builder
from exporter.experts.node import MoENode
from runtime.tensors import Array


@dataclass(frozen=True, eq=False)
class Routing:
    """Values of the graph that every form uses.

    Attributes:
        tokens: ``[T, width]``.
        chosen: int64 ``[T, k]``, each token's experts; ties went to the lowest index.
        scores: ``[T, k]``, the chosen experts' scores.
        weights: ``[T, k]``, what their outputs are multiplied by.
        hits: int32 ``[T, experts]``, 1 where the expert is chosen.
    """

    tokens: ir.Value
    chosen: ir.Value
    scores: ir.Value
    weights: ir.Value
    hits: ir.Value


def build_routing(moe: MoENode, build: Builder) -> Routing:
    """Top-k, weights and hits. ONNX's TopK gives ties to the lowest index."""
    tokens = moe.x
    if moe.rank == 3:
        tokens = build.op("Reshape", moe.x, build.ints(-1, moe.width))
    best, chosen = build.ops(
        "TopK", moe.choice, build.ints(moe.k), outputs=2, attributes={"axis": -1}
    )
    scores = best
    if moe.scores is not moe.choice:
        scores = build.op("GatherElements", moe.scores, chosen, attributes={"axis": 1})
    return Routing(tokens, chosen, scores, _weights(moe, scores, build), _hits(moe, chosen, build))


def build_load(moe: MoENode, routing: Routing, build: Builder) -> ir.Value:
    """int32 ``[rows, experts]``; of rank 2 each token is a row."""
    if moe.rank == 2:
        return routing.hits
    leading = build.op("Slice", build.op("Shape", moe.x), build.ints(0), build.ints(2))
    shape = build.op("Concat", leading, build.ints(moe.experts), attributes={"axis": 0})
    by_row = build.op("Reshape", routing.hits, shape, attributes={"allowzero": 1})
    return build.op("ReduceSum", by_row, build.ints(1), attributes={"keepdims": 0})


def build_shaped(moe: MoENode, y: ir.Value, build: Builder) -> ir.Value:
    """``[T, width]`` in the shape of the layer's input, also where it has no tokens."""
    if moe.rank == 2:
        return y
    return build.op("Reshape", y, build.op("Shape", moe.x), attributes={"allowzero": 1})


def _weights(moe: MoENode, scores: ir.Value, build: Builder) -> ir.Value:
    weights = scores
    if moe.normalise == "softmax":
        weights = build.op("Softmax", scores, attributes={"axis": -1})
    if moe.normalise == "sum":
        total = build.op("ReduceSum", scores, build.ints(1), attributes={"keepdims": 1})
        if moe.epsilon:
            total = build.op("Add", total, build.constant(np.array(moe.epsilon, dtype=np.float32)))
        weights = build.op("Div", scores, total)
    if moe.scale != 1.0:
        weights = build.op("Mul", weights, build.constant(np.array(moe.scale, dtype=np.float32)))
    return weights


def _hits(moe: MoENode, chosen: ir.Value, build: Builder) -> ir.Value:
    one = ir.Tensor(np.ones(1, dtype=np.int32))
    ones = build.op("ConstantOfShape", build.op("Shape", chosen), attributes={"value": one})
    zeros = build_filled(moe, np.zeros(1, dtype=np.int32), build)
    return build.op("ScatterElements", zeros, chosen, ones, attributes={"axis": 1})


def build_filled(moe: MoENode, value: Array, build: Builder) -> ir.Value:
    """``[T, experts]`` full of the one element of ``value``."""
    shape = build.op("Shape", moe.choice)
    return build.op("ConstantOfShape", shape, attributes={"value": ir.Tensor(value)})
