"""Names for what a module returns: a tensor, a tuple, a dict, a dataclass, nested."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from runtime.errors import ExportError, with_article


def named_outputs(result: Any, whose: str = "the module") -> dict[str, torch.Tensor]:
    """Flatten what ``forward`` returned, in torch.export's order.

    A bare tensor is ``output``, items of a tuple are ``output_0``, ``output_1`` …, items of
    a dict and fields of a dataclass have their names, nested ones are joined by a dot.
    ``None`` is left out.

    Args:
        result: What was returned.
        whose: For the text of an error.

    Raises:
        ExportError: Something in it is no tensor, or two outputs have the same name.
    """
    if isinstance(result, torch.Tensor):
        return {"output": result}
    leaves = _leaves(result)
    named: dict[str, torch.Tensor] = {}
    for path, leaf in leaves:
        if leaf is None:
            continue
        name = ".".join(_words(path))
        if not isinstance(leaf, torch.Tensor):
            place = f"'{name}'" if name else "its output"
            raise ExportError(
                f"{whose} returns {with_article(type(leaf).__name__)} as {place}; "
                "return tensors only, in a tuple, a dict or a dataclass"
            )
        if name in named:
            raise ExportError(f"{whose} returns two outputs named '{name}'; rename one")
        named[name] = leaf
    if not named:
        raise ExportError(f"{whose} returns no tensor; return at least one")
    return named


def _leaves(result: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """Every leaf with its path; dataclasses are made known to torch as they are met."""
    while True:
        leaves, _ = pytree.tree_flatten_with_path(result)
        new = {type(leaf) for _, leaf in leaves if is_dataclass(leaf) and type(leaf) is not type}
        if not new:
            return leaves
        for kind in new:
            _make_known(kind)


def _make_known(kind: type[Any]) -> None:
    """Torch would leave out fields that the constructor does not take."""
    computed = [item.name for item in fields(kind) if not item.init]
    if computed:
        raise ExportError(
            f"{kind.__name__}, which is returned, computes its field '{computed[0]}' itself; "
            "return a dict"
        )
    torch.export.register_dataclass(kind)


def _words(path: tuple[Any, ...]) -> list[str]:
    words: list[str] = []
    for key in path:
        if isinstance(key, pytree.SequenceKey):
            words.append(f"output_{key.idx}" if not words else str(key.idx))
        elif isinstance(key, pytree.MappingKey):
            words.append(str(key.key))
        else:
            words.append(str(getattr(key, "name", key)))
    return words
