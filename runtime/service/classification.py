"""The ``classification`` extension: the best classes of an output in place of its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.errors import InvalidInput
from runtime.tensor_bytes import array_of_strings
from runtime.tensors import Array

_NUMBERS = "fiu"


def check_classes(name: str, dtype: str) -> None:
    """Refuse classes of an output that holds no numbers, before anything is computed.

    Raises:
        InvalidInput: Its data type has no order.
    """
    if dtype in ("bool", "string"):
        raise InvalidInput(
            f"output '{name}' has data type {dtype}, which has no best classes; "
            "ask for the plain tensor"
        )


def classes_from_array(array: Array, count: int, labels: Sequence[str], *, batched: bool) -> Array:
    """The classes with the largest values, as Triton writes them: ``value:index[:label]``.

    Args:
        array: An output; ``[batch, ...]`` where ``batched``, else one sample of any shape.
        count: How many classes are wanted; there may be fewer.
        labels: Names by index; those that are missing are left out.
        batched: Whether axis 0 is the batch.

    Returns:
        ``[batch, count]`` bytes (``[count]`` without a batch), the best class first and of
        equal values the one with the lower index.
    """
    rows = array.reshape(len(array), -1) if batched and array.size else array.reshape(1, -1)
    if batched and not array.size:
        rows = array.reshape(len(array), 0)
    kept = min(count, rows.shape[1])
    # Turned around twice: the order is descending and still stable, for unsigned numbers too.
    ascending = np.argsort(rows[:, ::-1], axis=1, kind="stable")
    best = (rows.shape[1] - 1 - ascending[:, ::-1])[:, :kept]
    texts = [
        _class(row[index], int(index), labels)
        for row, indices in zip(rows, best, strict=True)
        for index in indices
    ]
    return array_of_strings(texts, (len(rows), kept) if batched else (kept,))


def _class(value: np.generic, index: int, labels: Sequence[str]) -> bytes:
    number = f"{float(value):f}" if value.dtype.kind == "f" else str(int(value))
    label = f":{labels[index]}" if index < len(labels) else ""
    return f"{number}:{index}{label}".encode()
