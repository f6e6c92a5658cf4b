"""What is there twice is kept once; the first of its kind keeps name and module.

1. Nodes of one operator with the same inputs and attributes give the same values.
2. Initializers of one type, shape and content are one, whatever their size.
3. Nodes with subgraphs and nodes that draw numbers stay as they are.
4. A duplicate that is an output of the graph keeps that name: the first takes it over, or an
   Identity has it where the first is an output itself.

onnx_ir merges the nodes. Of its two passes for initializers one keeps all bytes in memory
beside the model, the other fails on arrays that are views.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.passes.conditions import is_ordered, names_differ
from exporter.passes.names import nodes_kept
from exporter.passes.run import graph_pass

_BEGINNING = 64
"""Elements."""


def same_initializers(graph: ir.Graph) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Pairs of the first of its kind and a later one that is the same.

    Inputs and outputs of the graph have no equals, nor have strings.
    """
    met: dict[tuple[object, ...], list[ir.Value]] = {}
    for value in graph.initializers.values():
        tensor = value.const_value
        fixed = value.is_graph_input() or value.is_graph_output()
        if tensor is None or tensor.dtype is ir.DataType.STRING or fixed:
            continue
        array = tensor.numpy()
        # Weights differ in their first numbers; only what begins alike is read whole.
        kind = tensor.dtype, array.shape, array.flat[:_BEGINNING].tobytes()
        others = met.setdefault(kind, [])
        first = next((other for other in others if _bytes(other) == array.tobytes()), None)
        if first is None:
            others.append(value)
        else:
            yield first, value


def initializers_differ(model: ir.Model) -> str:
    """No two initializers of one type, shape and content."""
    for first, second in same_initializers(model.graph):
        return f"initializers '{first.name}' and '{second.name}' are the same"
    return ""


def _bytes(value: ir.Value) -> bytes:
    assert value.const_value is not None
    return value.const_value.numpy().tobytes()


@graph_pass(requires=(is_ordered,), ensures=(is_ordered, names_differ, initializers_differ))
def merge_duplicates(model: ir.Model) -> tuple[ir.Model, bool]:
    """Postcondition: no two initializers are the same."""
    shared = _merge_initializers(model.graph)
    # After the initializers: two nodes may differ in which copy they read.
    with nodes_kept(model):
        merged = bool(common.CommonSubexpressionEliminationPass()(model).modified)
    return model, shared or merged


def _merge_initializers(graph: ir.Graph) -> bool:
    pairs = list(same_initializers(graph))
    for first, second in pairs:
        second.replace_all_uses_with(first)
        del graph.initializers[str(second.name)]
    return bool(pairs)
