"""Arrays as the bytes of the Open Inference Protocol, and back; NumPy only.

Numbers are row-major and little-endian. Each element of ``BYTES`` is preceded by its
length, a little-endian uint32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from runtime.errors import InvalidInput
from runtime.tensors import BY_NAME, MAX_RANK, Array, DType, format_shape

MAX_BYTES = 2**63 - 1
_LENGTH = struct.Struct("<I")
_STRING_KINDS = "OSU"


def checked_shape(shape: Sequence[int], dtype: DType, what: str) -> tuple[int, ...]:
    """The shape of a tensor on the wire, if an array can have it.

    Args:
        shape: Sizes as they were sent.
        dtype: The type of one element.
        what: The tensor for the error (``input 'image'``).

    Raises:
        InvalidInput: Too many axes, a negative one, or more bytes than can be addressed.
    """
    if len(shape) > MAX_RANK:
        raise InvalidInput(f"{what} has {len(shape)} axes; at most {MAX_RANK}")
    sizes = tuple(shape)
    if any(size < 0 for size in sizes):
        raise InvalidInput(f"{what} has shape {format_shape(sizes)}; sizes cannot be negative")
    # NumPy refuses such a shape even where another axis is 0.
    if math.prod(size or 1 for size in sizes) * (dtype.size or 8) > MAX_BYTES:
        raise InvalidInput(f"{what} has shape {format_shape(sizes)}, which no memory can hold")
    return sizes


def array_from_bytes(data: bytes, dtype: DType, shape: Sequence[int], what: str) -> Array:
    """Look at ``data`` as an array; numbers are not copied.

    Args:
        data: All elements.
        dtype: Their type.
        shape: The array's shape, as it was sent.
        what: The tensor for the error (``input 'image'``).

    Returns:
        A read-only array.

    Raises:
        InvalidInput: Shape and bytes do not fit, or the bytes are no such elements.
    """
    sizes = checked_shape(shape, dtype, what)
    if dtype.size == 0:
        return _strings_from_bytes(data, sizes, what)
    wanted = math.prod(sizes) * dtype.size
    if len(data) != wanted:
        raise InvalidInput(
            f"{what} has {len(data)} bytes; {dtype.wire} {format_shape(sizes)} takes {wanted}"
        )
    array = np.frombuffer(data, dtype=np.dtype(dtype.name).newbyteorder("<")).reshape(sizes)
    if dtype.name == "bool" and array.size and array.view(np.uint8).max() > 1:
        raise InvalidInput(f"{what} is BOOL with a byte other than 0 and 1")
    return array


def _strings_from_bytes(data: bytes, shape: tuple[int, ...], what: str) -> Array:
    count = math.prod(shape)
    items: list[bytes] = []
    start = 0
    while start < len(data) and len(items) < count:
        body = start + _LENGTH.size
        if body > len(data):
            raise InvalidInput(f"{what} ends inside the length of element {len(items)}")
        end = body + _LENGTH.unpack_from(data, start)[0]
        if end > len(data):
            raise InvalidInput(
                f"{what} ends inside element {len(items)}, which should have {end - body} bytes"
            )
        items.append(data[body:end])
        start = end
    if len(items) < count:
        raise InvalidInput(
            f"{what} holds {len(items)} elements; BYTES {format_shape(shape)} takes {count}"
        )
    if start < len(data):
        raise InvalidInput(f"{what} has {len(data) - start} bytes after its {count} elements")
    return array_of_strings(items, shape)


def array_of_strings(items: Sequence[bytes], shape: tuple[int, ...]) -> Array:
    """A read-only object array of ``bytes``; as many items as the shape takes."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    array = array.reshape(shape)
    array.setflags(write=False)
    return array


def dtype_of_array(array: Array, what: str) -> DType:
    """The entry of the type table for an array; text and objects are ``string``.

    Raises:
        InvalidInput: The protocol has no such type.
    """
    name = "string" if array.dtype.kind in _STRING_KINDS else array.dtype.name
    if name not in BY_NAME:
        raise InvalidInput(f"{what} has data type {name}; use one of {', '.join(BY_NAME)}")
    return BY_NAME[name]


def bytes_from_array(array: Array, what: str) -> bytes:
    """All elements of an array, as the protocol has them.

    Raises:
        InvalidInput: An element of an object array is neither ``bytes`` nor ``str``.
    """
    if array.dtype.kind not in _STRING_KINDS:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    parts: list[bytes] = []
    for item in array.flat:
        data = _bytes_of_element(item, what)
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)


def _bytes_of_element(item: object, what: str) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    raise InvalidInput(f"{what} has an element of type {type(item).__name__}; use bytes or str")
