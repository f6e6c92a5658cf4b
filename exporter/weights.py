"""Weights from a file into a module, strictly: every tensor fits or is named."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from exporter.sources.ready import unwrapped
from exporter.sources.state_file import State, read_state
from runtime.errors import ExportError, NotFound

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")
"""Left by DataParallel, torch.compile and the attribute of a training module."""
_NOT_USED = "num_batches_tracked"
"""BatchNorm's counter: older files lack it, and an exported module never reads it."""


def load_weights(module: torch.nn.Module, path: Path) -> str:
    """Fill the module and give the file's sha256.

    Raises:
        NotFound: There is no such file.
        ExportError: The file is none of weights, or not of this module; the text names
            the first tensor that does not fit.
    """
    if not path.is_file():
        raise NotFound(f"weights {path} do not exist; give a .safetensors or .pt file")
    module = unwrapped(module)
    own = module.state_dict()
    state = _as_named(read_state(path), own)
    _check_names(state, own, path.name)
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ExportError(
                f"'{name}' in {path.name} has shape {list(tensor.shape)}; "
                f"the module wants {list(own[name].shape)}"
            )
    # What is missing by now is tied to a tensor that is there, or never read.
    module.load_state_dict(dict(state), strict=False)
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_named(state: State, own: Mapping[str, Any]) -> State:
    """Without the prefixes that wrappers leave, where the module does not have them."""
    while state and not any(name in own for name in state):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            return state
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _check_names(state: State, own: Mapping[str, Any], shown: str) -> None:
    held = {_memory(own[name]) for name in state if name in own}
    missing = [
        name
        for name, value in own.items()
        if name not in state and not name.endswith(_NOT_USED) and _memory(value) not in held
    ]
    extra = [name for name in state if name not in own]
    if missing:
        raise ExportError(
            f"{shown} has no '{missing[0]}', which the module wants "
            f"({len(missing)} missing, {len(extra)} not known{_first(extra)})"
        )
    if extra:
        raise ExportError(f"{shown} has '{extra[0]}', which the module does not know")


def _first(extra: list[str]) -> str:
    return f": '{extra[0]}'" if extra else ""


def _memory(value: Any) -> tuple[Any, ...]:
    """The same for tensors that are one: files hold tied weights once."""
    if not isinstance(value, torch.Tensor) or not value.data_ptr():
        return (id(value),)
    return (value.data_ptr(), tuple(value.shape), value.stride())
