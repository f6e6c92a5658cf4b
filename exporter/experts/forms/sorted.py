"""Tokens sorted by expert, cut into one piece an expert, each through its own matrices.

Only chosen experts compute. The pieces' sizes are known at run time only, so engines
cannot take this form.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from exporter.experts.activations import build_activation
from exporter.experts.builder import Builder
from exporter.experts.node import MoENode
from exporter.experts.routing import Routing


def build_sorted(moe: MoENode, routing: Routing, build: Builder) -> ir.Value:
    """Sort, Split, two or three Gemm an expert, Concat, and back to the tokens' order."""
    order, places = _sorted_by_expert(routing, build)
    token = build.op("Div", order, build.constant(np.array(moe.k, dtype=np.int64)))
    grouped = build.op("Gather", routing.tokens, token, attributes={"axis": 0})  # [T k, width]
    pieces = _pieces(moe, routing, grouped, build)
    weights = {name: build.each(items) for name, items in moe.weights.items()}
    outputs = [
        _expert(moe, {name: values[i] for name, values in weights.items()}, piece, build)
        for i, piece in enumerate(pieces)
    ]
    joined = outputs[0]
    if len(outputs) > 1:
        joined = build.op("Concat", *outputs, attributes={"axis": 0})
    back = build.op("Gather", joined, places, attributes={"axis": 0})
    if moe.k == 1:
        return build.op("Mul", back, routing.weights)
    back = build.op("Reshape", back, build.ints(-1, moe.k, moe.width))
    weighted = build.op("Mul", back, build.op("Unsqueeze", routing.weights, build.ints(2)))
    return build.op("ReduceSum", weighted, build.ints(1), attributes={"keepdims": 0})


def _sorted_by_expert(routing: Routing, build: Builder) -> tuple[ir.Value, ir.Value]:
    """``[T k]`` each: what comes at each place, and the place of each choice.

    TopK of all elements is a stable sort: ONNX gives ties to the lowest index.
    """
    flat = build.op("Reshape", routing.chosen, build.ints(-1))
    size = build.op("Shape", flat)
    _, order = build.ops("TopK", flat, size, outputs=2, attributes={"axis": 0, "largest": 0})
    zero, one = (build.constant(np.array(i, dtype=np.int64)) for i in (0, 1))
    ramp = build.op("Range", zero, build.op("Squeeze", size), one)
    places = build.op("ScatterElements", order, order, ramp, attributes={"axis": 0})
    return order, places


def _pieces(moe: MoENode, routing: Routing, grouped: ir.Value, build: Builder) -> list[ir.Value]:
    """One ``[tokens of the expert, width]`` an expert."""
    if moe.experts == 1:
        return [grouped]
    counts = build.op("ReduceSum", routing.hits, build.ints(0), attributes={"keepdims": 0})
    sizes = build.op("Cast", counts, attributes={"to": ir.DataType.INT64})
    return list(build.ops("Split", grouped, sizes, outputs=moe.experts, attributes={"axis": 0}))


def _expert(moe: MoENode, weights: Mapping[str, ir.Value], x: ir.Value, build: Builder) -> ir.Value:
    up = _linear("up", weights, x, build)
    if moe.gated:
        gate = build_activation(moe.activation, _linear("gate", weights, x, build), build)
        inside = build.op("Mul", gate, up)
    else:
        inside = build_activation(moe.activation, up, build)
    return _linear("down", weights, inside, build)


def _linear(name: str, weights: Mapping[str, ir.Value], x: ir.Value, build: Builder) -> ir.Value:
    """``x @ matrix.T + bias``, the matrix as torch has it."""
    inputs = [x, weights[name]]
    if f"{name}_bias" in weights:
        inputs.append(weights[f"{name}_bias"])
    return build.op("Gemm", *inputs, attributes={"transB": 1})
