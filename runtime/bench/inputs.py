"""What a load generator sends: rows of a file, or draws that fit what the server says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.client_wire import ServedModel
from runtime.codec import request_from_arrays
from runtime.draws import Draw
from runtime.errors import InvalidInput
from runtime.input_files import read_inputs
from runtime.tensors import Array, TensorSpec, dtype_named

BATCH_AXIS = "batch"
VARIANTS = 8
"""Different requests that take turns."""
MAX_BYTES = 2**31 - 1
HELD_BYTES = 2**28
"""Of all drawn requests together; of larger ones there are fewer."""
_TEXT = b"twinport"


@dataclass(frozen=True)
class Requests:
    """What is sent.

    Attributes:
        payloads: Requests, serialised, that take turns.
        rows: Of the first one.
    """

    payloads: tuple[bytes, ...]
    rows: int


def requests_for(
    model: ServedModel,
    *,
    rows: int | None = None,
    file: Path | None = None,
    axes: Mapping[str, int] | None = None,
    version: str = "",
) -> Requests:
    """Make requests.

    Args:
        model: What the server says of the model.
        rows: Of one request; none takes one, or all of the file.
        file: Inputs to send; none draws them.
        axes: Sizes of free axes other than the batch; 1 where none is given.
        version: Of the model; the server's choice where none is given.

    Raises:
        NotFound: There is no such file.
        InvalidInput: The model cannot take that.
    """
    joinable = all(spec.shape[:1] == (BATCH_AXIS,) for spec in model.inputs)
    if rows is not None and rows > 1 and not joinable:
        raise InvalidInput(
            f"model '{model.name}' has no batch axis, so a request cannot have {rows} rows; "
            "leave --rows out"
        )
    if file is None:
        variants = drawn(model.inputs, rows or 1, axes or {})
    else:
        variants = [
            _with_rows(item.arrays, rows if joinable else None) for item in read_inputs(file, model)
        ]
    if not variants:
        raise InvalidInput(f"{file} holds no request")
    made = [
        request_from_arrays(arrays, model=model.name, version=version).SerializeToString()
        for arrays in variants
    ]
    _check_size(max(map(len, made)))
    first = next(iter(variants[0].values()))
    return Requests(tuple(made), len(first) if joinable else 1)


def drawn(
    specs: Sequence[TensorSpec], rows: int, axes: Mapping[str, int]
) -> list[dict[str, Array]]:
    """Draw inputs: normal floats, whole numbers of 0 and 1, short text.

    Raises:
        InvalidInput: A name in ``axes`` is none of the model's, or a request is too large.
    """
    names = {axis for spec in specs for axis in spec.shape if isinstance(axis, str)} - {BATCH_AXIS}
    for name in axes:
        if name not in names:
            listed = ", ".join(sorted(names)) or "none"
            raise InvalidInput(f"the model has no free axis '{name}'; there are {listed}")
    sizes = {**dict.fromkeys(names, 1), **axes, BATCH_AXIS: rows}
    shapes = [tuple(int(sizes.get(str(axis), axis)) for axis in spec.shape) for spec in specs]
    size = sum(
        math.prod(shape) * (dtype_named(spec.dtype).size or len(_TEXT))
        for spec, shape in zip(specs, shapes, strict=True)
    )
    _check_size(size)
    variants = min(VARIANTS, max(1, HELD_BYTES // max(size, 1)))
    return [
        {spec.name: _draw(spec, shape, seed) for spec, shape in zip(specs, shapes, strict=True)}
        for seed in range(variants)
    ]


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise InvalidInput(f"a request has {size} bytes; gRPC takes up to {MAX_BYTES}")


def _draw(spec: TensorSpec, sizes: tuple[int, ...], seed: int) -> Array:
    if dtype_named(spec.dtype).size == 0:
        return np.full(sizes, _TEXT, dtype=object)
    if np.dtype(spec.dtype).kind == "f":
        return Draw("normal", seed, sizes, spec.dtype).array()
    return Draw("integers", seed, sizes, spec.dtype, 0, 2).array()


def _with_rows(arrays: Mapping[str, Array], rows: int | None) -> dict[str, Array]:
    """The first rows; from the beginning again where there are not as many."""
    if rows is None:
        return dict(arrays)
    if any(not array.shape or not len(array) for array in arrays.values()):
        raise InvalidInput("the file holds no rows; leave --rows out or give another one")
    return {
        name: np.take(array, range(rows), axis=0, mode="wrap") for name, array in arrays.items()
    }
