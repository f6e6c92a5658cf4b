"""What holds of a graph before and after the passes: each gives one line where it does not."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from exporter.experts.replace import is_read


def is_ordered(model: ir.Model) -> str:
    """Every node reads what is there before it: an input, an initializer, an earlier value."""
    return _unordered(model.graph, set())


def names_differ(model: ir.Model) -> str:
    """No two nodes of the graph and no two of its values have one name, and none has no name."""
    nodes: set[str] = set()
    values = {str(value.name) for value in model.graph.inputs}
    for node in model.graph:
        if not node.name or node.name in nodes:
            return f"there are two nodes '{node.name}'" if node.name else "a node has no name"
        nodes.add(node.name)
        for value in node.outputs:
            if value.name and value.name in values:
                return f"there are two values '{value.name}'"
            values.add(str(value.name))
    return ""


def all_is_read(model: ir.Model) -> str:
    """No node and no initializer without a reader."""
    for node in model.graph:
        if not any(is_read(value) for value in node.outputs):
            return f"nothing reads node '{node.name}'"
    for name, value in model.graph.initializers.items():
        if not is_read(value) and not value.is_graph_input():
            return f"nothing reads initializer '{name}'"
    return ""


def constants_are_initializers(model: ir.Model) -> str:
    """No Constant node in the main graph, and none that only gives an initializer a new form.

    A constant that is an output of the graph stays.
    """
    for node in model.graph:
        if any(value.is_graph_output() for value in node.outputs):
            continue
        if node.op_type == "Constant" and node.domain == "":
            return f"node '{node.name}' holds a constant"
        if node.op_type in _FORMS and all(_small_constant(value) for value in node.inputs):
            return f"{node.op_type} '{node.name}' reads constants alone"
    return ""


_FORMS = ("Cast", "Squeeze", "Unsqueeze", "Reshape")
_SMALL = 64


def _small_constant(value: ir.Value | None) -> bool:
    if value is None:
        return True
    constant = value.const_value
    return constant is not None and constant.size <= _SMALL and not value.is_graph_input()


def _unordered(graph: ir.Graph, outside: set[int]) -> str:
    known = outside | {id(value) for value in (*graph.inputs, *graph.initializers.values())}
    for node in graph:
        for value in node.inputs:
            if value is not None and id(value) not in known:
                return f"node '{node.name}' reads '{value.name}', which is not there yet"
        for inner in _subgraphs(node):
            if wrong := _unordered(inner, known):
                return wrong
        known |= {id(value) for value in node.outputs}
    for value in graph.outputs:
        if id(value) not in known:
            return f"nothing gives output '{value.name}'"
    return ""


def _subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type is ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
