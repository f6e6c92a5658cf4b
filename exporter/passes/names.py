"""Names and modules of nodes across the passes of others, which make new nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import onnx_ir as ir


@contextmanager
def nodes_kept(model: ir.Model) -> Iterator[None]:
    """A new node that gives an old value has the name and the notes of who gave it before.

    A library's rewrite puts new nodes in the place of old ones, under names of its own; the
    values keep theirs.
    """
    givers = {
        str(value.name): (str(node.name), dict(node.metadata_props))
        for node in model.graph
        for value in node.outputs
        if value.name
    }
    old = list(model.graph)
    yield
    taken = {str(node.name) for node in model.graph}
    known = set(map(id, old))
    for node in model.graph:
        if id(node) in known:
            continue
        given = next((givers[str(v.name)] for v in node.outputs if str(v.name) in givers), None)
        if given is not None and node.name != given[0] and given[0] not in taken:
            node.name = given[0]
            taken.add(given[0])
            _put_back(node, given[1])


def _put_back(node: ir.Node, notes: Mapping[str, str]) -> None:
    node.metadata_props.clear()
    node.metadata_props.update(notes)
