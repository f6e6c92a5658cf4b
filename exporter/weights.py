"""Weights from a file into a module, strictly; a pickle never gets to run code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from runtime.errors import ExportError, NotFound

_PICKLES = (".pt", ".pth", ".bin")


def load_weights(module: torch.nn.Module, path: Path) -> str:
    """Fill the module and give the file's sha256.

    Raises:
        NotFound: There is no such file.
        ExportError: The file is none of weights, or not of this module; the text names
            the first tensor that does not fit.
    """
    if not path.is_file():
        raise NotFound(f"weights {path} do not exist; give a .safetensors or .pt file")
    state = _read(path)
    own = module.state_dict()
    _check_names(state, own, path.name)
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise ExportError(
                f"'{name}' in {path.name} has shape {list(tensor.shape)}; "
                f"the module wants {list(own[name].shape)}"
            )
    module.load_state_dict(dict(state), strict=True)
    return file_sha256(path)


def _read(path: Path) -> Mapping[str, torch.Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path, device="cpu")
        except (SafetensorError, OSError) as error:
            raise ExportError(f"{path.name} is no safetensors file: {error}") from error
    if path.suffix not in _PICKLES:
        raise ExportError(f"weights {path.name} have an unknown ending; use .safetensors or .pt")
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(
            f"{path.name} holds more than weights or is damaged ({type(error).__name__}: "
            f"{first[:160]}); save module.state_dict()"
        ) from error
    if not isinstance(loaded, Mapping) or not all(
        isinstance(value, torch.Tensor) for value in loaded.values()
    ):
        raise ExportError(f"{path.name} is no state dict; save module.state_dict()")
    return loaded


def _check_names(state: Mapping[str, Any], own: Mapping[str, Any], shown: str) -> None:
    missing = [name for name in own if name not in state]
    extra = [name for name in state if name not in own]
    if missing:
        raise ExportError(
            f"{shown} has no '{missing[0]}', which the module wants "
            f"({len(missing)} missing, {len(extra)} not known)"
        )
    if extra:
        raise ExportError(f"{shown} has '{extra[0]}', which the module does not know")


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
