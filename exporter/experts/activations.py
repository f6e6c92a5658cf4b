"""An expert's activation in ONNX's own operators."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from exporter.experts.builder import Builder

_GELU_SINCE = 20
"""The opset whose operators include Gelu."""
_CUBIC = 0.044715
"""Of GELU's approximation by tanh (Hendrycks and Gimpel, arXiv 1606.08415)."""


def build_activation(kind: str, x: ir.Value, build: Builder) -> ir.Value:
    """``kind`` is one of ``exporter.experts.node.ACTIVATIONS``."""
    if kind == "relu":
        return build.op("Relu", x)
    if kind == "silu":
        return build.op("Mul", x, build.op("Sigmoid", x))
    if build.opset >= _GELU_SINCE:
        return build.op(
            "Gelu", x, attributes={"approximate": "tanh" if kind == "gelu_tanh" else "none"}
        )
    half = build.op("Mul", x, _scalar(0.5, build))
    inner = _tanh(x, build) if kind == "gelu_tanh" else _erf(x, build)
    return build.op("Mul", half, build.op("Add", inner, _scalar(1.0, build)))


def _erf(x: ir.Value, build: Builder) -> ir.Value:
    return build.op("Erf", build.op("Mul", x, _scalar(math.sqrt(0.5), build)))


def _tanh(x: ir.Value, build: Builder) -> ir.Value:
    cube = build.op("Mul", build.op("Mul", x, x), x)
    inner = build.op("Add", x, build.op("Mul", cube, _scalar(_CUBIC, build)))
    return build.op("Tanh", build.op("Mul", inner, _scalar(math.sqrt(2 / math.pi), build)))


def _scalar(number: float, build: Builder) -> ir.Value:
    return build.constant(np.array(number, dtype=np.float32))
