"""Take out what torch notes of the machine that exported: source paths, FX text, symbols.

1. Metadata of nodes, values, initializers and the graph: only the scopes and classes of
   the modules stay, which name no file.
2. Document strings go.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from exporter.layers import CLASSES, FUSED, SCOPES
from exporter.passes.run import graph_pass

_KEPT = frozenset({"namespace", SCOPES, CLASSES, FUSED})


def has_no_notes(model: ir.Model) -> str:
    """No metadata but ``_KEPT``, no document string."""
    for owner in _owners(model):
        for key in owner.metadata_props:
            if key not in _KEPT:
                return f"the note '{key}' is left"
        if owner.doc_string:
            return "a document string is left"
    return ""


@graph_pass(ensures=(has_no_notes,))
def strip_provenance(model: ir.Model) -> tuple[ir.Model, bool]:
    """Postcondition: no metadata but ``_KEPT`` and no document string is left."""
    changed = False
    for owner in _owners(model):
        for key in [key for key in owner.metadata_props if key not in _KEPT]:
            del owner.metadata_props[key]
            changed = True
        if owner.doc_string:
            owner.doc_string = None
            changed = True
    return model, changed


def _owners(model: ir.Model) -> Iterator[ir.Model | ir.Graph | ir.Function | ir.Node | ir.Value]:
    yield model
    yield from model.functions.values()
    for graph in model.graphs():
        yield graph
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            yield node
            yield from node.outputs
