"""Costs of links from a file: JSON, ``.npy`` or ``.npz``.

A matrix ``[sources, devices]`` of microseconds a token, alone or as ``us_per_token`` beside
``weights``, the tokens that come from each source; or ``link_tokens`` and ``link_seconds``, what
``LinkCosts`` keeps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtime.array_files import load_arrays
from runtime.errors import InvalidInput, NotFound
from runtime.experts.arrays import FloatArray
from runtime.experts.link_prices import TOKEN_US, Links
from runtime.experts.links import LinkCosts

_MATRIX, _WEIGHTS = "us_per_token", "weights"
_WANTED = f"{_MATRIX} and, if need be, {_WEIGHTS}, or {' and '.join(LinkCosts.NAMES)}"


def read_links(path: Path, token_us: float = TOKEN_US) -> Links:
    """Read one file; its ending tells the kind.

    Args:
        path: The file.
        token_us: One token through one expert on a device of mean speed, in microseconds.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It holds something else, or values that cannot be.
    """
    if path.suffix not in (".json", ".npy", ".npz"):
        raise InvalidInput(f"the links {path} have another ending; wanted .json, .npy or .npz")
    if not path.is_file():
        raise NotFound(f"there are no links {path}")
    found = _parsed(path)
    if not isinstance(found, Mapping):
        return Links(_numbers(found, path, "the file"), None, token_us)
    arrays = {name: _numbers(value, path, name) for name, value in found.items()}
    names = set(arrays)
    if names == set(LinkCosts.NAMES):
        return Links.from_costs(LinkCosts.from_arrays(arrays), token_us)
    if _MATRIX in names and names <= {_MATRIX, _WEIGHTS}:
        return Links(arrays[_MATRIX], arrays.get(_WEIGHTS), token_us)
    raise InvalidInput(f"{path} holds {', '.join(sorted(names)) or 'nothing'}; wanted {_WANTED}")


def _parsed(path: Path) -> Any:
    if path.suffix != ".json":
        return load_arrays(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} cannot be read as .json: {error}") from error


def _numbers(value: Any, path: Path, name: str) -> FloatArray:
    try:
        found = np.asarray(value)
    except ValueError:
        found = np.empty(0, dtype=object)
    if found.dtype.kind not in "fiu":
        raise InvalidInput(f"{path}: {name} holds no numbers in rows of one length")
    return found.astype(float)
