"""Which torch module made which ONNX value; read before any pass drops the trace."""

from __future__ import annotations

import ast

import onnx_ir as ir

from runtime.manifest import ModuleOrigin

SCOPES = "pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"
FUSED = "pkg.twinport.fused"
"""Modules that a pass put into a node of another one; the node gives the last one's value."""
_NOWHERE = "_empty_nn_module_stack"
"""What torch notes of a size that it reads outside of every module."""


def module_map(model: ir.Model) -> dict[str, ModuleOrigin]:
    """Map each node's values to the innermost module that they come from.

    ``name_scopes`` runs from the root (an empty name) to the FX node; the last but one
    is the module's path, and the same place of ``class_hierarchy`` is its class.
    """
    origins: dict[str, ModuleOrigin] = {}
    root = next((kinds[0] for node in model.graph if (kinds := _listed(node, CLASSES))), "")
    for node in model.graph:
        scopes, classes = _listed(node, SCOPES), _listed(node, CLASSES)
        if len(scopes) < 2 or len(classes) < len(scopes):
            continue
        module, kind = scopes[-2], classes[len(scopes) - 2]
        if module.startswith(_NOWHERE):
            module, kind = "", root
        origin = ModuleOrigin(module, kind, node.op_type, fused_into(node))
        origins.update({str(value.name): origin for value in node.outputs if value.name})
    return origins


def fused_into(node: ir.Node) -> tuple[str, ...]:
    """Paths of the modules that a pass put into a node, in their order."""
    return tuple(_listed(node, FUSED))


def scopes_of(node: ir.Node) -> list[str]:
    """Paths of the modules that a node is in, from the root down."""
    return _listed(node, SCOPES)[:-1]


def classes_of(node: ir.Node) -> list[str]:
    """Classes of the modules that a node is in, from the root down."""
    return _listed(node, CLASSES)[:-1]


def _listed(node: ir.Node, key: str) -> list[str]:
    text = node.metadata_props.get(key, "[]")
    try:
        items = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return []
    return [str(item) for item in items] if isinstance(items, list) else []
