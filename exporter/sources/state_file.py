"""The state dict in a file: safetensors, or a pickle that never gets to run code."""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors import SafetensorError
from safetensors.torch import load_file

from exporter.said import first_line
from runtime.errors import ExportError

State = Mapping[str, torch.Tensor]

_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net", "weights", "params")
"""Under these training programs keep the weights, beside an epoch and an optimiser."""
_LIGHTNING = "pytorch-lightning_version"
_HARMLESS: list[Any] = [
    argparse.Namespace,
    pathlib.PosixPath,
    np.dtype,
    *(kind for kind in vars(np.dtypes).values() if isinstance(kind, type)),
    (scalar, "numpy.core.multiarray.scalar"),
    (scalar, "numpy._core.multiarray.scalar"),
]
"""Plain values that checkpoints hold beside tensors; making one runs no code of the file."""
_WANTED = re.compile(r"GLOBAL (\S+) was not an allowed global|got <class '([^']+)'>")


def read_state(path: Path) -> State:
    """Tensors by name, on the CPU wherever they were made; wrapped ones are taken out.

    Raises:
        ExportError: The file has another ending, is damaged, holds something else, or is a
            pickle that would run code.
    """
    _check_readable(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path, device="cpu")
        except (SafetensorError, OSError) as error:
            raise ExportError(f"{path.name} is no safetensors file: {error}") from error
    if path.suffix not in _PICKLES:
        raise ExportError(f"weights {path.name} have an unknown ending; use .safetensors or .pt")
    return _state_in(_unpickled(path), path.name)


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ExportError(
            f"weights {path.name} cannot be read: {error.strerror or error}"
        ) from error


@contextmanager
def weights_only() -> Iterator[None]:
    """Until the end, whatever reads a pickle with torch gets weights or an error, no code runs."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _unpickled(path: Path) -> Any:
    """What a pickle of plain values and tensors holds, whatever device it was made on."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        said = str(error)
        if wanted := _WANTED.search(said):
            raise ExportError(
                f"{path.name} was not read: it is a pickle that would run code "
                f"({wanted[1] or wanted[2]}), and so could do anything; where you trust it, "
                "load it yourself and save torch.save(module.state_dict(), 'weights.pt')"
            ) from error
        if "TorchScript archive" in said:
            raise ExportError(
                f"{path.name} is a TorchScript archive; save the state_dict() of the Python module"
            ) from error
        if "Weights only load failed" in said:
            raise ExportError(
                f"{path.name} was not read: it is no file of torch.save, or a pickle that would "
                "run code; save torch.save(module.state_dict(), 'weights.pt')"
            ) from error
        raise ExportError(
            f"{path.name} is damaged, or not what torch.save writes ({first_line(error)[:160]})"
        ) from error


def _state_in(loaded: Any, shown: str) -> State:
    """The state dict itself, or the one that a training program wrapped."""
    if not isinstance(loaded, Mapping):
        raise ExportError(
            f"{shown} holds a {type(loaded).__name__} and no state dict; save module.state_dict()"
        )
    if loaded and all(isinstance(value, torch.Tensor) for value in loaded.values()):
        return loaded
    for key in _WRAPPERS:
        if isinstance(loaded.get(key), Mapping):
            inner = _state_in(loaded[key], f"'{key}' of {shown}")
            return _of_lightning(inner) if _LIGHTNING in loaded else inner
    keys = ", ".join(f"'{key}'" for key in list(loaded)[:5]) or "nothing"
    raise ExportError(
        f"{shown} is no state dict: it holds {keys}; save module.state_dict(), or keep it under "
        f"{', '.join(_WRAPPERS[:3])}"
    )


def _of_lightning(state: State) -> State:
    """A training module holds the model in an attribute, beside losses and metrics."""
    for prefix in ("model.", "net.", "network."):
        if any(name.startswith(prefix) for name in state):
            return {name: value for name, value in state.items() if name.startswith(prefix)}
    return state
