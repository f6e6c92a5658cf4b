"""A float32 graph that rounds as a graph of a lower float type does, operator by operator.

ONNX Runtime's CPU provider computes fp16 in float32 from one operator to the next, and has no
bf16 at all: there a typed graph looks better than it is on hardware, or does not run. This
one can be run here, with the noise of every rounding and the overflow of every value in it.
Sums inside of an operator are kept in float32, as tensor cores keep them.
"""

from __future__ import annotations

import onnx_ir as ir

from exporter.experts.builder import Names
from exporter.precision.kinds import FloatKind

FLOAT = ir.DataType.FLOAT


def emulated(model: ir.Model, kind: FloatKind) -> ir.Model:
    """A copy of a typed graph, all in float32, with a rounding behind each lowered value.

    Args:
        model: As ``lower_floats`` leaves it.
        kind: Its lower type.
    """
    copy = model.clone()
    names = Names(copy)
    for graph in copy.graphs():
        for value in graph.initializers.values():
            if value.dtype == kind.dtype and value.const_value is not None:
                array = value.const_value.numpy().astype("float32")
                value.const_value = ir.Tensor(array, name=value.name)
                value.type = ir.TensorType(FLOAT)
        for node in list(graph):
            for value in list(node.outputs):
                if value.dtype == kind.dtype:
                    _round(value, node, graph, kind, names)
    return copy


def _round(value: ir.Value, node: ir.Node, graph: ir.Graph, kind: FloatKind, names: Names) -> None:
    """Cast behind a value, down and up again; of a cast down only up."""
    nodes: list[ir.Node] = []
    last = value
    if node.op_type != "Cast":
        value.type = ir.TensorType(FLOAT)
        nodes.append(_cast(last, kind.dtype, names))
        last = nodes[-1].outputs[0]
    nodes.append(_cast(last, FLOAT, names))
    value.replace_all_uses_with(nodes[-1].outputs[0])
    nodes[0].replace_input_with(0, value)
    graph.insert_after(node, nodes)


def _cast(value: ir.Value, dtype: ir.DataType, names: Names) -> ir.Node:
    name = names.fresh(f"{value.name}/rounded")
    cast = ir.node("Cast", [value], attributes={"to": int(dtype)}, name=name)
    cast.outputs[0].name = names.fresh(f"{name}.out")
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(dtype), value.shape
    return cast
