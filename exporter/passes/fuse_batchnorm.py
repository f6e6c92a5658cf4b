"""A normalisation by fixed statistics goes into the convolution before it.

1. Conv, ConvTranspose (with groups) and Gemm (either way round) take scale and shift into
   their weights; a bias is made where there was none.
2. The node keeps the convolution's name and module, its value the normalisation's name, for
   that is what it gives now; the normalisation's module is noted in ``FUSED``.
3. Left alone: a convolution whose own value is read elsewhere or is an output, weights or a
   bias that another node reads too, parameters that are not constants, a normalisation that
   trains or has more outputs.

The new weights are computed in float64 and rounded once: ``scale = gamma / sqrt(var + eps)``,
``weight * scale`` and ``(bias - mean) * scale + beta``. onnxscript has such a rule, too; it
computes in float32 and gives the node a new name and the normalisation's module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.experts.replace import drop_unused_initializers
from exporter.layers import FUSED, fused_into, scopes_of
from exporter.passes.conditions import is_ordered, names_differ
from exporter.passes.run import graph_pass
from runtime.tensors import Array

_OPERATORS = ("Conv", "ConvTranspose", "Gemm")
_EPSILON = 1e-5  # ONNX's own, where the node has none


@graph_pass(requires=(is_ordered,), ensures=(is_ordered, names_differ, lambda m: _left(m)))
def fuse_batchnorm(model: ir.Model) -> tuple[ir.Model, bool]:
    """Postcondition: no normalisation is left that could have been fused."""
    found = [pair for node in model.graph if (pair := _pair(node)) is not None]
    for pair in found:
        _fuse(model.graph, pair)
    return model, bool(found)


@dataclass(frozen=True)
class _Pair:
    """A convolution and the normalisation of its value."""

    conv: ir.Node
    norm: ir.Node


def _left(model: ir.Model) -> str:
    for node in model.graph:
        if _pair(node) is not None:
            return f"normalisation '{node.name}' is left"
    return ""


def _pair(norm: ir.Node) -> _Pair | None:
    """The normalisation with its convolution, where the two can be one."""
    if (norm.domain, norm.op_type) != ("", "BatchNormalization") or not _is_fixed(norm):
        return None
    value = norm.inputs[0]
    conv = value.producer() if value is not None else None
    if value is None or conv is None or (conv.domain, conv.op_type) not in _KNOWN:
        return None
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    own = all(_constant(item) and len(item.uses()) == 1 for item in conv.inputs[1:] if item)
    given = len(conv.inputs) > 1 and all(_constant(item) for item in norm.inputs[1:5])
    return _Pair(conv, norm) if alone and own and given else None


_KNOWN = {("", name) for name in _OPERATORS}


def _is_fixed(norm: ir.Node) -> bool:
    training = norm.attributes.get("training_mode")
    others = any(value.uses() or value.is_graph_output() for value in norm.outputs[1:])
    return (training is None or training.as_int() == 0) and not others


def _constant(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.is_initializer()
        and value.const_value is not None
        and value.const_value.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE)
        and not value.is_graph_input()
        and not value.is_graph_output()
    )


def _fuse(graph: ir.Graph, pair: _Pair) -> None:
    conv, norm = pair.conv, pair.norm
    gamma, beta, mean, variance = (_array(value) for value in norm.inputs[1:5])
    epsilon = norm.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (epsilon.as_float() if epsilon else _EPSILON))
    weight, bias = conv.inputs[1], conv.inputs[2] if len(conv.inputs) > 2 else None
    assert weight is not None
    old = np.zeros_like(mean) if bias is None else _array(bias) * _bias_factor(conv)
    shift = (old - mean) * scale + beta
    _set(weight, _scaled(conv, _array(weight), scale))
    if bias is None:
        bias = _new_bias(graph, weight, shift)
        conv.resize_inputs(3)
        conv.replace_input_with(2, bias)
    else:
        _set(bias, shift)
    if conv.op_type == "Gemm":
        conv.attributes.pop("beta", None)
    _join(graph, pair)


def _scaled(conv: ir.Node, weight: Array, scale: Array) -> Array:
    """``weight`` times ``scale`` along the axis of its output channels."""
    if conv.op_type == "ConvTranspose":  # [in, out / groups, ...], groups of in after each other
        groups = _int(conv, "group", 1)
        parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        by_group = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return (parts * by_group).reshape(weight.shape)
    if conv.op_type == "Gemm" and not _int(conv, "transB", 0):
        return weight * scale
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))


def _bias_factor(conv: ir.Node) -> float:
    beta = conv.attributes.get("beta") if conv.op_type == "Gemm" else None
    return beta.as_float() if beta is not None else 1.0


def _join(graph: ir.Graph, pair: _Pair) -> None:
    """The convolution gives the normalisation's value from now on."""
    conv, norm = pair.conv, pair.norm
    given, value = conv.outputs[0], norm.outputs[0]
    notes = (*fused_into(conv), *scopes_of(norm)[-1:])
    conv.metadata_props[FUSED] = repr(list(notes))
    stored = list(norm.inputs[1:])
    given.type, given.shape = value.type, value.shape
    value.replace_all_uses_with(given, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    given.name = value.name
    drop_unused_initializers(graph, stored)


def _array(value: ir.Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float64)


def _set(value: ir.Value, array: Array) -> None:
    assert value.const_value is not None
    dtype = value.const_value.dtype.numpy()
    value.const_value = ir.Tensor(np.ascontiguousarray(array, dtype=dtype), name=value.name)


def _new_bias(graph: ir.Graph, weight: ir.Value, array: Array) -> ir.Value:
    assert weight.const_value is not None
    name = str(weight.name).removesuffix(".weight") + ".bias"
    number = 1
    while name in graph.initializers or any(value.name == name for value in graph.inputs):
        number += 1
        name = f"{str(weight.name).removesuffix('.weight')}.bias_{number}"
    tensor = ir.Tensor(array.astype(weight.const_value.dtype.numpy()), name=name)
    bias = ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(bias)
    return bias


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return attribute.as_int() if attribute is not None else default
