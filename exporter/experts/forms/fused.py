"""ONNX Runtime's own ``com.microsoft.MoE``: one operator a layer, float32 on the CPU.

The operator chooses experts itself and gives ties to the highest index. So it is handed
scores for the chosen experts only, and minus infinity for all others: what it can choose is
what the graph's TopK chose, of which the load is counted.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from exporter.experts.builder import Builder
from exporter.experts.node import MoENode, Weight
from exporter.experts.routing import Routing, build_filled
from runtime.errors import ExportError
from runtime.tensors import Array

DOMAIN = "com.microsoft"
_ACTIVATIONS = {"relu": "relu", "gelu_tanh": "gelu", "silu": "silu"}
"""Its gelu is the approximation by tanh."""
_TINY = np.finfo(np.float32).tiny


def why_not_fused(moe: MoENode) -> str | None:
    """Why the operator cannot compute this layer; none where it can."""
    if moe.gated and moe.activation != "silu":
        return f"it has gated experts with silu only, not {moe.activation}"
    if moe.activation not in _ACTIVATIONS:
        return f"it has no {moe.activation}"
    if moe.normalise != "softmax" and moe.score == "logits":
        return f"it takes weights by softmax, not raw scores with normalise '{moe.normalise}'"
    return None


def build_fused(moe: MoENode, routing: Routing, build: Builder) -> ir.Value:
    """Masked scores, the operator, and the weights' total where it is not 1.

    Raises:
        ExportError: The operator cannot compute this layer.
    """
    reason = why_not_fused(moe)
    if reason is not None:
        raise ExportError(
            f"layer '{moe.layer}' cannot use ONNX Runtime's MoE operator: {reason}; "
            "use --moe-form sorted or auto"
        )
    y = build.op(
        "MoE", routing.tokens, masked_scores(moe, routing, build), *_weights(moe, build),
        domain=DOMAIN, attributes=_attributes(moe),
    )  # fmt: skip
    if moe.normalise == "softmax" and moe.scale == 1.0:
        return y
    total = build.op("ReduceSum", routing.weights, build.ints(1), attributes={"keepdims": 1})
    return build.op("Mul", y, total)


def masked_scores(moe: MoENode, routing: Routing, build: Builder) -> ir.Value:
    """``[T, experts]`` whose softmax is each chosen expert's share, 0 for the others."""
    scores = routing.scores
    if moe.normalise != "softmax":
        # softmax(log s) is s over its sum.
        floor = build.constant(np.array(_TINY, dtype=np.float32))
        scores = build.op("Log", build.op("Max", scores, floor))
    nobody = build_filled(moe, np.array([-math.inf], dtype=np.float32), build)
    return build.op("ScatterElements", nobody, routing.chosen, scores, attributes={"axis": 1})


def _attributes(moe: MoENode) -> dict[str, str | int | float]:
    known: dict[str, str | int | float] = {"k": moe.k, "normalize_routing_weights": 1}
    if not moe.gated:
        return {**known, "activation_type": _ACTIVATIONS[moe.activation]}
    # Its SwiGLU is g * sigmoid(alpha * g) * (l + beta): silu-gated experts at 1 and 0.
    return {
        **known, "activation_type": "swiglu", "swiglu_fusion": 1,
        "activation_alpha": 1.0, "activation_beta": 0.0,
    }  # fmt: skip


def _weights(moe: MoENode, build: Builder) -> list[ir.Value | None]:
    first, second = moe.weights["up"], moe.weights["down"]
    if moe.gated:
        matrix = _interleaved(moe.weights["gate"], first, build)
    else:
        matrix = build.weights.stacked(first)
    down_bias = moe.weights.get("down_bias")
    return [
        matrix,
        _first_bias(moe, build),
        build.weights.stacked(second),
        build.weights.stacked(down_bias) if down_bias else None,
    ]


def _first_bias(moe: MoENode, build: Builder) -> ir.Value | None:
    up, gate = moe.weights.get("up_bias"), moe.weights.get("gate_bias")
    if not moe.gated:
        return build.weights.stacked(up) if up else None
    if up is None and gate is None:
        return None
    return _interleaved(gate or _zeros_like(up), up or _zeros_like(gate), build)


def _zeros_like(weights: tuple[Weight, ...] | None) -> tuple[Weight, ...]:
    assert weights is not None
    return tuple(
        Weight(np.zeros_like(item.array), item.source, f"{item.part}.zeros") for item in weights
    )


def _interleaved(gates: tuple[Weight, ...], ups: tuple[Weight, ...], build: Builder) -> ir.Value:
    """Rows of the gate and of the other matrix in turn, as the operator wants them."""

    def make() -> Array:
        gate, up = (np.stack([item.array for item in items]) for items in (gates, ups))
        return np.stack([gate, up], axis=2).reshape(gate.shape[0], -1, *gate.shape[2:])

    return build.weights.relaid(gates + ups, "gate_and_up", make)
