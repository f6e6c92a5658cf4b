"""Small changes of an ONNX graph, each a function that makes the change it describes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

Change = Callable[[ir.Model], None]


def both(*changes: Change) -> Change:
    """One change after the other."""

    def plant(model: ir.Model) -> None:
        for change in changes:
            change(model)

    return plant


def change_weights(function: Callable[[Any], Any], part: str) -> Change:
    """Apply ``function`` to every float weight with ``part`` in its name; one at least."""

    def plant(model: ir.Model) -> None:
        weights = [
            value
            for name, value in model.graph.initializers.items()
            if part in name and value.dtype == ir.DataType.FLOAT
        ]
        assert weights, f"no weight is called '{part}'"
        for weight in weights:
            _set(weight, function(weight.const_value.numpy()))

    return plant


def change_operand(op: str, turn: int, position: int, function: Callable[[Any], Any]) -> Change:
    """Apply ``function`` to the constant at an input of a node."""

    def plant(model: ir.Model) -> None:
        operand = _node(model, op, turn).inputs[position]
        assert operand is not None
        assert operand.const_value is not None, f"input {position} of {op} is not constant"
        _set(operand, function(operand.const_value.numpy()))

    return plant


def transpose_weight(op: str, turn: int) -> Change:
    """Turn the square matrix at the second input of a node."""
    return change_operand(op, turn, 1, _transposed_square)


def set_attribute(op: str, turn: int, name: str, value: float | str | Sequence[int]) -> Change:
    """Give an attribute that is there another value."""

    def plant(model: ir.Model) -> None:
        node = _node(model, op, turn)
        assert name in node.attributes, f"{op} has no {name}"
        node.attributes[name] = ir.convenience.convert_attribute(name, value)

    return plant


def replace_node(op: str, turn: int, other: str, **attributes: float) -> Change:
    """Put another operator with one input in a node's place."""

    def plant(model: ir.Model) -> None:
        node = _node(model, op, turn)
        _redirect(
            model,
            node.outputs[0],
            lambda _: _append(model, other, [node.inputs[0]], **attributes),
        )

    return plant


def remove_node(op: str, turn: int) -> Change:
    """Hand a node's first input on as it is."""
    return replace_node(op, turn, "Identity")


def round_input(op: str, turn: int) -> Change:
    """Round the first input of a node to eleven bits of significand."""

    def plant(model: ir.Model) -> None:
        value = _node(model, op, turn).inputs[0]
        assert value is not None
        _redirect(model, value, lambda value: _rounded(model, value))

    return plant


def round_all(model: ir.Model) -> None:
    """Round every float between two nodes to the eleven bits that half precision keeps."""
    between = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    for value in between:
        if value.dtype == ir.DataType.FLOAT:
            _redirect(model, value, lambda value: _rounded(model, value))


def reverse_rows(model: ir.Model) -> None:
    """Give each request of a batch another one's answer."""
    ends = [_constant(model, np.array([number])) for number in (-1, -(2**62), 0, -1)]
    _redirect(model, model.graph.outputs[0], lambda value: _append(model, "Slice", [value, *ends]))


def scale_in_batches_of(size: int) -> Change:
    """Make the first output 1 % too large in batches of one size only."""

    def plant(model: ir.Model) -> None:
        first = _append(model, "Shape", [model.graph.inputs[0]], start=0, end=1)
        same = _append(model, "Equal", [first, _constant(model, np.array([size]))])
        factors = [_constant(model, np.array([f], np.float32)) for f in (1.01, 1.0)]
        factor = _append(model, "Where", [same, *factors])
        output = model.graph.outputs[0]
        _redirect(model, output, lambda value: _append(model, "Mul", [value, factor]))

    return plant


def clip_input(limit: float) -> Change:
    """Clip the first input to ``[-limit, limit]``."""

    def plant(model: ir.Model) -> None:
        ends = [_constant(model, np.array(end, np.float32)) for end in (-limit, limit)]
        taken = model.graph.inputs[0]
        _redirect(model, taken, lambda value: _append(model, "Clip", [value, *ends]))

    return plant


def poison_input(number: float) -> Change:
    """Put NaN wherever the first input has exactly this value."""

    def plant(model: ir.Model) -> None:
        sought = _constant(model, np.array(number, np.float32))
        nan = _constant(model, np.array(np.nan, np.float32))
        _redirect(
            model,
            model.graph.inputs[0],
            lambda value: _append(
                model, "Where", [_append(model, "Equal", [value, sought]), nan, value]
            ),
        )

    return plant


def _rounded(model: ir.Model, value: ir.Value) -> ir.Value:
    """Veltkamp's split: ``big - (big - value)`` with ``big = value * (2**13 + 1)``."""
    big = _append(model, "Mul", [value, _constant(model, np.array(2**13 + 1, np.float32))])
    return _append(model, "Sub", [big, _append(model, "Sub", [big, value])])


def _redirect(model: ir.Model, value: ir.Value, make: Callable[[ir.Value], ir.Value]) -> None:
    """Let all that used ``value`` so far, the graph's outputs included, use what is made."""
    users = list(value.uses())
    result = make(value)
    for use in users:
        use.node.replace_input_with(use.idx, result)
    outputs = model.graph.outputs
    for position, output in enumerate(outputs):
        if output is value:
            name, result.shape, result.dtype = value.name, value.shape, value.dtype
            outputs[position] = result
            value.name, result.name = f"{name}_right", name
    model.graph.sort()


def _append(model: ir.Model, op: str, inputs: Sequence[Any], **attributes: Any) -> ir.Value:
    node = ir.node(op, inputs, attributes=attributes)
    model.graph.append(node)
    node.outputs[0].name = f"fault_{op}_{len(model.graph)}"
    return node.outputs[0]


def _constant(model: ir.Model, array: Any) -> ir.Value:
    value = ir.Value(name=f"fault_constant_{len(model.graph.initializers)}")
    _set(value, array)
    model.graph.register_initializer(value)
    return value


def _set(value: ir.Value, array: Any) -> None:
    value.const_value = ir.tensor(np.asarray(array, order="C"), name=value.name)
    value.dtype, value.shape = value.const_value.dtype, value.const_value.shape


def _node(model: ir.Model, op: str, turn: int) -> ir.Node:
    nodes = [node for node in model.graph if node.op_type == op]
    assert nodes, f"the graph has no {op}"
    return nodes[turn]


def _transposed_square(matrix: Any) -> Any:
    assert matrix.shape[0] == matrix.shape[1]
    return matrix.T.copy()
