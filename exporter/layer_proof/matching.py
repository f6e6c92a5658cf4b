"""Which inner value of the artifact a tensor of the module is.

The names of the two sides have nothing in common, so it goes by where a value is made or
read, by its kind and shape, and where several are left by the numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from runtime.tensors import Array

Key = TypeVar("Key", bound=Hashable)


def same_kind(tensor: Array, value: Array) -> bool:
    """Whether two arrays may be the same thing: floats of any width, the same shape."""
    floats = tensor.dtype.kind == "f", _is_float(value)
    return tensor.shape == value.shape and floats[0] == floats[1]


def assigned(
    tensors: Mapping[Key, Array], names: Sequence[str], values: Mapping[str, Array]
) -> dict[Key, str]:
    """The values that the tensors of one side of a call are.

    A tensor that nobody uses has no value in the graph, so that of two tensors of one shape
    and one value the closer one has it.

    Args:
        tensors: As the module gives them.
        names: Values that are made or read there.
        values: All inner values of the call.

    Returns:
        A value for each tensor that has one; no value twice.
    """
    there = [name for name in names if name in values]
    pairs = [(key, name) for key, tensor in tensors.items() for name in there
             if same_kind(tensor, values[name])]  # fmt: skip
    if len(pairs) > 1:
        pairs.sort(key=lambda pair: _distance(tensors[pair[0]], values[pair[1]]))
    found: dict[Key, str] = {}
    for key, name in pairs:
        if key not in found and name not in found.values():
            found[key] = name
    return found


def _distance(tensor: Array, value: Array) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        moved = np.nan_to_num(np.abs(tensor.astype(np.float64) - value.astype(np.float64)))
    return float(np.square(moved).sum())


def _is_float(array: Array) -> bool:
    """bfloat16 and its like have a kind of their own in NumPy."""
    return array.dtype.kind == "f" or array.dtype.name.startswith(("bfloat", "float"))
