"""A graph's own types and modules: what lowering reads before it changes anything."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from exporter.layers import scopes_of
from runtime.errors import InvalidInput


def typed(model: ir.Model) -> ir.Model:
    """A copy in which every value whose type can be inferred has it."""
    copy = model.clone()
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(copy)
    return copy


def module_of(node: ir.Node) -> str:
    """Path of the innermost torch module that a node is from; empty for the root."""
    scopes = scopes_of(node)
    return scopes[-1] if scopes else ""


def is_in(node: ir.Node, modules: Iterable[str]) -> bool:
    """Whether a node is from one of the modules or from what is inside of them."""
    wanted = set(modules)
    return any(scope in wanted for scope in scopes_of(node) if scope)


def check_modules(named: Iterable[str], known: Iterable[str], option: str) -> None:
    """Refuse a module that is not there.

    Raises:
        InvalidInput: The text names those that are.
    """
    there = [path for path in known if path]
    for name in named:
        if name not in there:
            shown = ", ".join(there[:12]) + (" …" if len(there) > 12 else "")
            raise InvalidInput(f"{option} names the module '{name}'; there are {shown or 'none'}")
