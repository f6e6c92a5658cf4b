"""No shape depends on data, so that engines can take it: two ways, chosen by the token count.

1. Few tokens: each token's own experts are gathered as matrices (reads, writes and reads
   ``T k`` experts).
2. Otherwise dense: all experts for all tokens as two large products, the experts that were
   not chosen with weight 0 (reads ``experts`` experts, and computes ``experts / k`` times
   what is needed).
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from exporter.experts.activations import build_activation
from exporter.experts.builder import Builder
from exporter.experts.node import MoENode
from exporter.experts.routing import Routing, build_filled
from runtime.tensors import Array

_PASSES_OF_A_GATHER = 3
"""Over an expert's weights: read, write, read again."""


def build_static(
    moe: MoENode, routing: Routing, build: Builder, most_tokens: float = math.inf
) -> ir.Value:
    """The cheaper way for at most ``most_tokens`` tokens a call."""
    if most_tokens * moe.k * _PASSES_OF_A_GATHER <= moe.experts:
        return build_gathered(moe, routing, build)
    return _dense(moe, routing, build)


def build_gathered(moe: MoENode, routing: Routing, build: Builder) -> ir.Value:
    """Each token's k experts as a batch of matrices times column vectors."""
    x = build.op("Unsqueeze", routing.tokens, build.ints(1, 3))  # [T, 1, width, 1]
    up = _gathered_linear(moe, "up", routing, x, build)
    if moe.gated:
        gate = _gathered_linear(moe, "gate", routing, x, build)
        inside = build.op("Mul", build_activation(moe.activation, gate, build), up)
    else:
        inside = build_activation(moe.activation, up, build)
    outputs = _gathered_linear(moe, "down", routing, inside, build)  # [T, k, width, 1]
    weights = build.op("Unsqueeze", routing.weights, build.ints(2, 3))
    weighted = build.op("Mul", outputs, weights)
    return build.op("ReduceSum", weighted, build.ints(1, 3), attributes={"keepdims": 0})


def _gathered_linear(
    moe: MoENode, name: str, routing: Routing, x: ir.Value, build: Builder
) -> ir.Value:
    stacked = build.weights.stacked(moe.weights[name])
    matrices = build.op("Gather", stacked, routing.chosen, attributes={"axis": 0})
    product = build.op("MatMul", matrices, x)  # [T, k, out, 1]
    if f"{name}_bias" not in moe.weights:
        return product
    stacked = build.weights.stacked(moe.weights[f"{name}_bias"])
    biases = build.op("Gather", stacked, routing.chosen, attributes={"axis": 0})
    return build.op("Add", product, build.op("Unsqueeze", biases, build.ints(3)))


def _dense(moe: MoENode, routing: Routing, build: Builder) -> ir.Value:
    nothing = build_filled(moe, np.zeros(1, dtype=np.float32), build)
    by_expert = build.op(
        "ScatterElements", nothing, routing.chosen, routing.weights, attributes={"axis": 1}
    )  # [T, experts]
    up = _wide_linear(moe, "up", routing.tokens, build)
    if moe.gated:
        gate = _wide_linear(moe, "gate", routing.tokens, build)
        inside = build.op("Mul", build_activation(moe.activation, gate, build), up)
    else:
        inside = build_activation(moe.activation, up, build)
    shape = build.ints(-1, moe.experts, moe.hidden)
    weights = build.op("Unsqueeze", by_expert, build.ints(2))
    weighted = build.op("Mul", build.op("Reshape", inside, shape), weights)
    flat = build.op("Reshape", weighted, build.ints(-1, moe.experts * moe.hidden))
    downs = moe.weights["down"]
    down = build.weights.relaid(
        downs, "tall", lambda: np.concatenate([item.array.T for item in downs])
    )
    y = build.op("MatMul", flat, down)
    if "down_bias" not in moe.weights:
        return y
    biases = build.weights.stacked(moe.weights["down_bias"])
    return build.op("Add", y, build.op("MatMul", by_expert, biases))


def _wide_linear(moe: MoENode, name: str, x: ir.Value, build: Builder) -> ir.Value:
    """All experts' first matrices as one: ``[T, experts hidden]``."""
    items = moe.weights[name]

    def wide() -> Array:
        return np.concatenate([item.array for item in items]).T

    y = build.op("MatMul", x, build.weights.relaid(items, f"wide.{name}", wide))
    if f"{name}_bias" not in moe.weights:
        return y
    biases = moe.weights[f"{name}_bias"]
    flat = build.weights.relaid(
        biases, f"wide.{name}_bias", lambda: np.concatenate([item.array for item in biases])
    )
    return build.op("Add", y, flat)
