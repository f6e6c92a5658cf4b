"""Layers that look like mixtures of experts and that no adapter knows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir
from torch import nn

from exporter.experts.spec import ExpertLayers
from exporter.layers import scopes_of

CURE = "register an adapter for it with @exporter.experts.moe_adapter"
_SPARSE_OPERATORS = frozenset({"NonZero", "Compress", "If", "Loop", "Scan"})
"""Without one of these a graph computes every expert for every token."""


@dataclass(frozen=True)
class Suspect:
    """A module with several experts in it.

    Attributes:
        path: In the module tree; empty for the root.
        kind: Name of its class.
    """

    path: str
    kind: str

    def __str__(self) -> str:
        return f"layer '{self.path}' ({self.kind})" if self.path else f"the module ({self.kind})"


def suspects_of(module: nn.Module, found: ExpertLayers) -> tuple[Suspect, ...]:
    """Modules with an ``experts`` of two or more, outside of the layers that were found."""
    known = {layer.path for layer in found.layers}
    suspects: list[Suspect] = []
    for path, child in module.named_modules():
        inside = any(path == item or path.startswith(f"{item}.") for item in known)
        if not inside and _has_experts(child):
            suspects.append(Suspect(path, type(child).__name__))
    return tuple(suspects)


def _has_experts(module: nn.Module) -> bool:
    experts = getattr(module, "experts", None)
    if isinstance(experts, (nn.ModuleList, nn.ModuleDict)):
        return len(experts) > 1
    if not isinstance(experts, nn.Module):
        return False
    # Stacked: every parameter has the same leading axis of experts.
    shapes = [tuple(parameter.shape) for parameter in experts.parameters(recurse=False)]
    return bool(shapes) and all(len(s) == 3 for s in shapes) and len({s[0] for s in shapes}) == 1


def dense_warnings(model: ir.Model, suspects: Iterable[Suspect]) -> tuple[str, ...]:
    """A line for each suspect of which the graph computes all experts for every token."""
    return tuple(
        f"{suspect} looks like a mixture of experts and no adapter knows it: the graph "
        f"computes every expert for every token; {CURE}"
        for suspect in suspects
        if _is_dense(model, suspect)
    )


def _is_dense(model: ir.Model, suspect: Suspect) -> bool:
    inside = [node.op_type for node in model.graph if _is_in(suspect.path, scopes_of(node))]
    return bool(inside) and not _SPARSE_OPERATORS & set(inside)


def _is_in(path: str, scopes: list[str]) -> bool:
    return any(scope == path or scope.startswith(f"{path}.") for scope in scopes) or not path
