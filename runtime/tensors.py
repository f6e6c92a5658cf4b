"""Tensor specifications and the one table of data types; NumPy only."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InvalidInput

Array: TypeAlias = NDArray[Any]
Axis: TypeAlias = int | str

MAX_RANK = 32


@dataclass(frozen=True)
class DType:
    """One data type under the names that its neighbours give it.

    Attributes:
        name: NumPy's and torch's name, ours everywhere.
        wire: The name in the Open Inference Protocol (``FP32``).
        config: The name of the enumerator in ``config.pbtxt`` (``TYPE_FP32``).
        size: Bytes an element; 0 for the variable-length ``string``.
    """

    name: str
    wire: str
    config: str
    size: int


_DTYPES = (
    DType("bool", "BOOL", "TYPE_BOOL", 1),
    DType("uint8", "UINT8", "TYPE_UINT8", 1),
    DType("uint16", "UINT16", "TYPE_UINT16", 2),
    DType("uint32", "UINT32", "TYPE_UINT32", 4),
    DType("uint64", "UINT64", "TYPE_UINT64", 8),
    DType("int8", "INT8", "TYPE_INT8", 1),
    DType("int16", "INT16", "TYPE_INT16", 2),
    DType("int32", "INT32", "TYPE_INT32", 4),
    DType("int64", "INT64", "TYPE_INT64", 8),
    DType("float16", "FP16", "TYPE_FP16", 2),
    DType("float32", "FP32", "TYPE_FP32", 4),
    DType("float64", "FP64", "TYPE_FP64", 8),
    DType("string", "BYTES", "TYPE_STRING", 0),
)
BY_NAME: Mapping[str, DType] = {dtype.name: dtype for dtype in _DTYPES}
BY_WIRE: Mapping[str, DType] = {dtype.wire: dtype for dtype in _DTYPES}
BY_CONFIG: Mapping[str, DType] = {dtype.config: dtype for dtype in _DTYPES}


def dtype_named(name: str) -> DType:
    """Look a data type up by our name.

    Raises:
        InvalidInput: The table has no such name.
    """
    try:
        return BY_NAME[name]
    except KeyError:
        raise InvalidInput(
            f"data type '{name}' is not known; use one of {', '.join(BY_NAME)}"
        ) from None


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy type of one of our names; ``string`` is an object array of ``bytes``."""
    return np.dtype(object) if dtype_named(name).size == 0 else np.dtype(name)


@dataclass(frozen=True)
class TensorSpec:
    """Name, data type and shape of one input or output.

    Attributes:
        name: The tensor's name in the graph and on the wire.
        dtype: One of ``BY_NAME``.
        shape: A number for a fixed axis, a name for a free one; the same name
            means the same size in every tensor of the model.
    """

    name: str
    dtype: str
    shape: tuple[Axis, ...]

    def __post_init__(self) -> None:
        """Refuse what no tensor can be."""
        dtype_named(self.dtype)
        if not self.name:
            raise InvalidInput("a tensor needs a name; got an empty one")
        if len(self.shape) > MAX_RANK:
            raise InvalidInput(f"'{self.name}' has {len(self.shape)} axes; at most {MAX_RANK}")
        for axis in self.shape:
            if isinstance(axis, int) and axis < 0:
                raise InvalidInput(f"'{self.name}' has the axis {axis}; name a free axis instead")

    @property
    def wire_shape(self) -> tuple[int, ...]:
        """The shape as the protocol writes it: -1 for a free axis."""
        return tuple(axis if isinstance(axis, int) else -1 for axis in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype} {format_shape(self.shape)}"


def format_shape(shape: Sequence[Axis]) -> str:
    """``[batch, 1, 32, 32]``."""
    return "[" + ", ".join(str(axis) for axis in shape) + "]"


_SPEC = re.compile(r"\s*(?P<name>[^:\s]+)\s*:\s*(?P<dtype>\w+)\s*\[(?P<shape>[^\]]*)\]\s*")


def spec_from_text(text: str) -> TensorSpec:
    """Read ``x:float32[batch,3,32,32]``: names are free axes, numbers are fixed.

    Raises:
        InvalidInput: The text has another form, an unknown type or a bad axis.
    """
    found = _SPEC.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"input '{text}' cannot be read; wanted the form 'x:float32[batch,3,32,32]'"
        )
    words = [word.strip() for word in found["shape"].split(",")] if found["shape"].strip() else []
    return TensorSpec(found["name"], found["dtype"], tuple(_axis(word, text) for word in words))


def _axis(word: str, text: str) -> Axis:
    if word.isdecimal():
        return int(word)
    if word.isidentifier():
        return word
    raise InvalidInput(f"axis '{word}' in input '{text}' is neither a number nor a name")


def check_array(array: Array, spec: TensorSpec, sizes: dict[str, int]) -> None:
    """Refuse an array that is not what the specification says.

    Args:
        array: What was given.
        spec: What is wanted.
        sizes: Free axes met so far; filled as new ones are seen, so that one name
            has one size over all inputs of a request.

    Raises:
        InvalidInput: Another data type, rank or size; the text says both sides.
    """
    given = "string" if array.dtype == object else array.dtype.name
    if given != spec.dtype:
        raise InvalidInput(f"input '{spec.name}' has data type {given}; the model wants {spec}")
    check_shape(array.shape, spec, sizes)


def check_shape(shape: Sequence[int], spec: TensorSpec, sizes: dict[str, int]) -> None:
    """Refuse a shape that is not what the specification says; see ``check_array``."""
    wanted = f"the model wants {spec}"
    if len(shape) != len(spec.shape):
        raise InvalidInput(f"input '{spec.name}' has shape {format_shape(shape)}; {wanted}")
    for size, axis in zip(shape, spec.shape, strict=True):
        expected = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
        if size != expected:
            other = "" if isinstance(axis, int) else f", where '{axis}' is {expected} already"
            raise InvalidInput(
                f"input '{spec.name}' has shape {format_shape(shape)}; {wanted}{other}"
            )
