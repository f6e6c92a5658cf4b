"""Join the rows of several requests into one call and give each request its rows back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from runtime.tensors import Array

Arrays: TypeAlias = Mapping[str, Array]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]


def rows_of(arrays: Arrays) -> int:
    """Size of axis 0, which all inputs of a batchable model share; 1 without any input."""
    for array in arrays.values():
        return int(array.shape[0])
    return 1


def shapes_below(arrays: Arrays) -> Shapes:
    """The shapes without axis 0; requests may share a call where these are equal.

    Args:
        arrays: The inputs of one request, in the order of the model's inputs.
    """
    return tuple([array.shape[1:] for array in arrays.values()])


def joined(requests: Sequence[Arrays]) -> dict[str, Array]:
    """The rows of all requests, one request after the other.

    Args:
        requests: Each with every input, equal but for axis 0.
    """
    if len(requests) == 1:
        return dict(requests[0])
    return {name: np.concatenate([arrays[name] for arrays in requests]) for name in requests[0]}


def parted(answers: Arrays, rows: Sequence[int]) -> list[dict[str, Array]]:
    """The rows of each request; views of ``answers``, which nobody may write to.

    Args:
        answers: Every output of the call, axis 0 of all requests together.
        rows: Of each request, in the order in which they were joined.

    Raises:
        ValueError: An output has not as many rows as the call had.
    """
    total = sum(rows)
    for name, array in answers.items():
        if array.shape[:1] != (total,):
            raise ValueError(f"output '{name}' has shape {array.shape} after a call of {total}")
    parts: list[dict[str, Array]] = []
    start = 0
    for count in rows:
        part = slice(start, start + count)
        parts.append({name: array[part] for name, array in answers.items()})
        start += count
    return parts
