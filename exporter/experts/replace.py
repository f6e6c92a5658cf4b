"""Put nodes in another's place, and take initializers out that nothing reads any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx_ir as ir


def replace_node(node: ir.Node, nodes: Sequence[ir.Node], values: Sequence[ir.Value]) -> None:
    """``nodes`` take the place of ``node``, ``values`` the names and uses of its outputs.

    Outputs of ``node`` beyond ``values`` have no users.
    """
    graph = node.graph
    assert graph is not None
    for old, new in zip(node.outputs, values, strict=False):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.insert_before(node, nodes)
    graph.remove(node, safe=True)


def is_read(value: ir.Value) -> bool:
    """Whether a node or the graph's end takes a value."""
    return bool(value.uses()) or value.is_graph_output()


def drop_unused_initializers(graph: ir.Graph, values: Iterable[ir.Value | None]) -> None:
    """Take those of ``values`` out of the graph that nothing reads."""
    for value in values:
        if value is None or is_read(value):
            continue
        if graph.initializers.get(str(value.name)) is value:
            del graph.initializers[str(value.name)]
