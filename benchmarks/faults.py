"""Planted faults: what can go wrong with an exported graph, as changes of that graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import graph_edits as edit
import numpy as np
import onnx_ir as ir

Change = Callable[[ir.Model], None]
Where = Literal["ordinary", "batch of 7", "zeros", "large"]


@dataclass(frozen=True)
class Fault:
    """One fault in one model.

    Attributes:
        model: A name of the zoo.
        name: In the table.
        plant: Changes the graph.
        where: The inputs on which the fault's size is measured.
        blind: Why no proof of this kind can see it; empty where it should.
    """

    model: str
    name: str
    plant: Change
    where: Where = "ordinary"
    blind: str = ""


def bfloat16(values: Any) -> Any:
    """Eight bits of significand, to nearest, ties to even."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32)


def float16(values: Any) -> Any:
    """Half precision and back."""
    return values.astype(np.float16).astype(np.float32)


def tf32(values: Any) -> Any:
    """Ten bits of mantissa, as tensor cores round float32."""
    big = values.astype(np.float32) * np.float32(2**13 + 1)
    return big - (big - values)


def int8(values: Any) -> Any:
    """One scale for the tensor, 127 steps to either side."""
    step = np.abs(values).max() / 127
    return (np.round(values / step) * step).astype(np.float32)


def _largest(factor: float) -> Callable[[Any], Any]:
    """The weight of greatest magnitude, times ``factor``."""
    return lambda values: _scaled(values, np.abs(values).argmax(), factor)


def _median(factor: float) -> Callable[[Any], Any]:
    """The weight of median magnitude, times ``factor``."""
    return lambda values: _scaled(
        values, np.argsort(np.abs(values), axis=None)[values.size // 2], factor
    )


def _scaled(values: Any, index: int, factor: float) -> Any:
    changed = values.copy()
    changed.reshape(-1)[index] *= np.float32(factor)
    return changed


def _zeros(values: Any) -> Any:
    return np.zeros_like(values)


def _swapped_channels(values: Any) -> Any:
    return values[:, ::-1].copy()


_LENET, _CNN = "lenet5", "residual CNN, BatchNorm"
_ENCODER, _ATTENTION, _LSTM = "transformer encoder", "masked attention", "LSTM, both directions"
_GELU = "GELU MLP"
_NOT_DRAWN = "no drawn input has it"
_weights, _attribute = edit.change_weights, edit.set_attribute

FAULTS = (
    Fault(_LENET, "fc3 in fp16", _weights(float16, "fc3")),
    Fault(_LENET, "conv1 in bf16", _weights(bfloat16, "conv1")),
    Fault(_LENET, "fc2 weights in TF32", _weights(tf32, "fc2.weight")),
    Fault(_LENET, "fc2 weights and inputs in TF32", edit.both(
        _weights(tf32, "fc2.weight"), edit.round_input("Gemm", 1))),
    Fault(_LENET, "largest weight of fc2 off by 1 %", _weights(_largest(1.01), "fc2.weight")),
    Fault(_LENET, "median weight of fc3 off by 1 %", _weights(_median(1.01), "fc3.weight")),
    Fault(_LENET, "median weight of conv1 off by 1 %", _weights(_median(1.01), "conv1.weight")),
    Fault(_LENET, "median weight of conv1 off by 1e-4",
          _weights(_median(1.0001), "conv1.weight")),
    Fault(_LENET, "median weight of fc3 off by 1e-4", _weights(_median(1.0001), "fc3.weight")),
    Fault(_LENET, "bias of conv2 dropped", _weights(_zeros, "conv2.bias")),
    Fault(_LENET, "ReLU made LeakyReLU(0.01)",
          edit.replace_node("Relu", 1, "LeakyRelu", alpha=0.01)),
    Fault(_LENET, "ReLU missing", edit.remove_node("Relu", 3)),
    Fault(_LENET, "conv2 weights in int8", _weights(int8, "conv2.weight")),
    Fault(_LENET, "all weights in int8", _weights(int8, "weight")),
    Fault(_LENET, "whole model in fp16", edit.both(_weights(float16, ""), edit.round_all)),
    Fault(_LENET, "rows of the batch reversed", edit.reverse_rows),
    Fault(_LENET, "1 % off in batches of 7", edit.scale_in_batches_of(7), "batch of 7"),
    Fault(_LENET, "1 % off in batches of 5", edit.scale_in_batches_of(5), blind=_NOT_DRAWN),
    Fault(_LENET, "inputs clipped at 100", edit.clip_input(100.0), "large"),
    Fault(_LENET, "NaN where an input is 0", edit.poison_input(0.0), "zeros"),
    Fault(_LENET, "NaN where an input is 0.123456789", edit.poison_input(0.123456789),
          blind=_NOT_DRAWN),
    Fault(_CNN, "padding shifted by one", _attribute("Conv", 2, "pads", (0, 0, 2, 2))),
    Fault(_CNN, "means of the channels swapped",
          edit.change_operand("Sub", 0, 1, _swapped_channels)),
    Fault(_CNN, "BatchNorm epsilon 1e-5 made 1e-3",
          _attribute("BatchNormalization", 0, "epsilon", 1e-3)),
    Fault(_CNN, "ReLU missing in the block", edit.remove_node("Relu", 1)),
    Fault(_CNN, "conv2 weights in bf16", _weights(bfloat16, "conv2.weight")),
    Fault(_CNN, "all weights in int8", _weights(int8, "weight")),
    Fault(_CNN, "whole model in fp16", edit.both(_weights(float16, ""), edit.round_all)),
    Fault(_CNN, "median weight of conv2 off by 1 %", _weights(_median(1.01), "conv2.weight")),
    Fault(_ENCODER, "LayerNorm epsilon 1e-5 made 1e-3",
          _attribute("LayerNormalization", 0, "epsilon", 1e-3)),
    Fault(_ENCODER, "tanh GELU for erf GELU", _attribute("Gelu", 0, "approximate", "tanh")),
    Fault(_ENCODER, "Softmax over the queries", _attribute("Softmax", 0, "axis", -2)),
    Fault(_ENCODER, "LayerNorm missing", edit.remove_node("LayerNormalization", 2)),
    Fault(_ENCODER, "feed-forward bias dropped", _weights(_zeros, "linear2.bias")),
    Fault(_ENCODER, "rows of the batch reversed", edit.reverse_rows),
    Fault(_ENCODER, "whole model in fp16", edit.both(_weights(float16, ""), edit.round_all)),
    Fault(_ATTENTION, "square weight transposed", edit.transpose_weight("MatMul", 0)),
    Fault(_ATTENTION, "value weights in TF32", edit.change_operand("MatMul", 3, 1, tf32)),
    Fault(_LSTM, "recurrent weights in fp16", edit.change_operand("LSTM", 0, 2, float16)),
    Fault(_LSTM, "input weights in bf16", edit.change_operand("LSTM", 0, 1, bfloat16)),
    Fault(_LSTM, "bias of the first layer dropped", edit.change_operand("LSTM", 0, 3, _zeros)),
    Fault(_LSTM, "one recurrent weight off by 1 %",
          edit.change_operand("LSTM", 0, 2, _largest(1.01))),
    Fault(_LSTM, "step before the last read out", edit.change_operand(
        "Gather", -1, 1, lambda index: index - 1)),
    Fault(_GELU, "tanh GELU for erf GELU", _attribute("Gelu", 0, "approximate", "tanh")),
    Fault(_GELU, "square weight transposed", edit.transpose_weight("Gemm", 1)),
)  # fmt: skip
QUICK = (
    "fc3 in fp16", "median weight of fc3 off by 1e-4", "1 % off in batches of 7",
    "inputs clipped at 100", "NaN where an input is 0", "square weight transposed",
)  # fmt: skip
