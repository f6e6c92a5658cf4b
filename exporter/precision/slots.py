"""Which inputs and outputs of an operator may be of a lower float type, as ONNX's schemas say."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

_TYPE_NAMES = {ir.DataType.FLOAT16: "tensor(float16)", ir.DataType.BFLOAT16: "tensor(bfloat16)"}


@dataclass(frozen=True)
class Slots:
    """Positions that take the lower type, where they hold floats at all."""

    inputs: frozenset[int]
    outputs: frozenset[int]


_NONE = Slots(frozenset(), frozenset())


def is_float(value: ir.Value | None) -> bool:
    """Whether a value is float32."""
    return value is not None and value.dtype == ir.DataType.FLOAT


def low_slots(node: ir.Node, opset: int, dtype: ir.DataType) -> Slots:
    """The positions of a node's float32 values that may become ``dtype``.

    An output whose type no input decides (that of a Cast, say) is an attribute's matter and
    no such position.

    Args:
        node: Its values have types.
        opset: Of ONNX's own operators in the model.
        dtype: float16 or bfloat16.
    """
    if node.domain not in ("", "ai.onnx"):
        return _NONE
    allowed = _allowed(node.op_type, opset, _TYPE_NAMES[dtype])
    if allowed is None:
        return _NONE
    takes, gives = allowed
    inputs = {
        i for i, value in enumerate(node.inputs) if is_float(value) and _at(takes, i)
    }  # fmt: skip
    outputs = {i for i, value in enumerate(node.outputs) if is_float(value) and _at(gives, i)}
    return Slots(frozenset(inputs), frozenset(outputs))


_Positions = tuple[tuple[bool, ...], bool]
"""For each formal parameter, and whether the last one stands for all that follow."""


def _at(positions: _Positions, index: int) -> bool:
    flags, variadic = positions
    if index < len(flags):
        return flags[index]
    return variadic and flags[-1]


@functools.lru_cache(maxsize=1024)
def _allowed(op_type: str, opset: int, type_name: str) -> tuple[_Positions, _Positions] | None:
    """Inputs and outputs; none for an operator that ONNX does not have."""
    try:
        schema = onnx.defs.get_schema(op_type, opset)
    except onnx.defs.SchemaError:
        return None
    types = {item.type_param_str: item.allowed_type_strs for item in schema.type_constraints}
    bound = {item.type_str for item in schema.inputs}
    takes = tuple(type_name in types.get(item.type_str, ()) for item in schema.inputs)
    gives = tuple(
        item.type_str in bound and type_name in types.get(item.type_str, ())
        for item in schema.outputs
    )
    return (takes, _open_end(schema.inputs)), (gives, _open_end(schema.outputs))


def _open_end(parameters: Sequence[onnx.defs.OpSchema.FormalParameter]) -> bool:
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return bool(parameters) and parameters[-1].option == variadic
