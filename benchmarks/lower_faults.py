"""Planted faults of lower precisions: what can go wrong with a lowered graph, as changes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from runtime.tensors import Array

Change = Callable[[ir.Model], None]


@dataclass(frozen=True)
class LowerFault:
    """One fault in one artifact.

    Attributes:
        plant: Changes the lowered graph.
    """

    model: str
    precision: str
    name: str
    plant: Change


def scaled(name: str, factor: float) -> Change:
    """Multiply a stored tensor."""
    return _changed(name, lambda array: array * np.asarray(factor, array.dtype))


def swapped(name: str, first: int, second: int) -> Change:
    """Exchange two entries of a stored tensor along its first axis."""

    def change(array: Array) -> Array:
        order = np.arange(len(array))
        order[[first, second]] = second, first
        return array[order]

    return _changed(name, change)


def extremes_swapped(name: str) -> Change:
    """Exchange the smallest and the largest entry of a stored vector."""

    def change(array: Array) -> Array:
        order = np.arange(len(array))
        ends = [int(array.argmin()), int(array.argmax())]
        order[ends] = ends[::-1]
        return array[order]

    return _changed(name, change)


def zeroed(name: str) -> Change:
    """Make a stored tensor zeros."""
    return _changed(name, lambda array: array * np.asarray(0, array.dtype))


def saturated(value: str, limit: float) -> Change:
    """Clip an inner value, as a type that ends too early does."""

    def plant(model: ir.Model) -> None:
        node = next(n for n in model.graph if any(v.name == value for v in n.outputs))
        output = next(v for v in node.outputs if v.name == value)
        assert output.dtype is not None
        ends = []
        for sign in (-1, 1):
            array = np.asarray(sign * limit, output.dtype.numpy())
            end = ir.Value(name=f"fault_{sign}", const_value=ir.Tensor(array), shape=ir.Shape([]))
            end.type = ir.TensorType(output.dtype)
            model.graph.register_initializer(end)
            ends.append(end)
        clip = ir.node("Clip", [output, *ends], name="fault_clip")
        clip.outputs[0].name, clip.outputs[0].type = "fault_clipped", output.type
        output.replace_all_uses_with(clip.outputs[0])
        clip.replace_input_with(0, output)
        model.graph.insert_after(node, clip)

    return plant


def shifted_zero(steps: int) -> Change:
    """Let DequantizeLinear take off a zero that QuantizeLinear did not add."""

    def plant(model: ir.Model) -> None:
        zero = ir.Value(name="fault_zero", const_value=ir.Tensor(np.array(steps, np.int8)))
        zero.type, zero.shape = ir.TensorType(ir.DataType.INT8), ir.Shape([])
        model.graph.register_initializer(zero)
        nodes = (n for n in model.graph if n.op_type == "DequantizeLinear" and len(n.inputs) == 3)
        next(nodes).replace_input_with(2, zero)

    return plant


def _changed(name: str, change: Callable[[Array], Array]) -> Change:
    def plant(model: ir.Model) -> None:
        value = model.graph.initializers[name]
        assert value.const_value is not None
        value.const_value = ir.Tensor(np.ascontiguousarray(change(value.const_value.numpy())),
                                      name=name)  # fmt: skip

    return plant


FAULTS = (
    LowerFault("lenet5", "fp16", "conv2 saturated at 2", saturated("conv2d_1", 2.0)),
    LowerFault("lenet5", "fp16", "fc1 weights 5 % too large", scaled("fc1.weight.fp16", 1.05)),
    LowerFault("lenet5", "fp16", "bias of conv2 dropped", zeroed("conv2.bias.fp16")),
    LowerFault("lenet5", "fp16", "two channels of conv1 swapped",
               swapped("conv1.weight.fp16", 0, 1)),
    LowerFault("lenet5", "bf16", "fc1 weights 20 % too large", scaled("fc1.weight.bf16", 1.2)),
    LowerFault("lenet5", "bf16", "two channels of conv1 swapped",
               swapped("conv1.weight.bf16", 0, 1)),
    LowerFault("lenet5", "int8", "weight scale of conv2 doubled",
               scaled("conv2.weight.scale", 2.0)),
    LowerFault("lenet5", "int8", "smallest and largest scale of conv2 swapped",
               extremes_swapped("conv2.weight.scale")),
    LowerFault("lenet5", "int8", "smallest and largest scale of conv1 swapped",
               extremes_swapped("conv1.weight.scale")),
    LowerFault("lenet5", "int8", "two scales of conv1, of like size, swapped",
               swapped("conv1.weight.scale", 0, 1)),
    LowerFault("lenet5", "int8", "scales of fc3's channels in reverse",
               _changed("fc3.weight.scale", lambda array: array[::-1])),
    LowerFault("lenet5", "int8", "input scale a quarter, so that it clips",
               scaled("max_pool2d.scale", 0.25)),
    LowerFault("lenet5", "int8", "zero of an input off by 20 steps", shifted_zero(20)),
    LowerFault("lenet5", "int8", "weights of fc2 shifted by one channel",
               _changed("fc2.weight.int8", lambda array: np.roll(array, 1, 0))),
    LowerFault("transformer encoder", "fp16", "GELU saturated at 0.5", saturated("gelu", 0.5)),
    LowerFault("GELU MLP", "int8", "weight scale of the first layer 1.3 times",
               scaled("layers.0.weight.scale", 1.3)),
)  # fmt: skip
