"""Arrays as the bytes of the Open Inference Protocol, and back; NumPy only.

Numbers are row-major and little-endian. Each element of ``BYTES`` is preceded by its
length, a little-endian uint32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from runtime.errors import InvalidInput
from runtime.tensors import BY_NAME, MAX_RANK, Array, DType, format_shape

MAX_BYTES = 2**63 - 1
MAX_STRINGS = 2**22
"""Elements that are looked at in data that did not come with the request: about a second."""
_WINDOW = 2**16
"""Bytes that are read at a time to find lengths in."""
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


def check_strings(
    read: Callable[[int, int], bytes], size: int, shape: Sequence[int], what: str
) -> None:
    """Follow the lengths of all elements through data that is somewhere else.

    The elements themselves are not read, so that what does not hold together costs little.

    Args:
        read: Gives so many bytes (second) from a place on (first); both are within ``size``.
        size: Bytes of the data.
        shape: As ``checked_shape`` gave it.
        what: The tensor for the error (``input 'text'``).

    Raises:
        InvalidInput: The elements do not fill the data, or are too many to look at.
    """
    count = math.prod(shape)
    if count > MAX_STRINGS:
        raise InvalidInput(
            f"{what} has {count} elements; at most {MAX_STRINGS} are read from shared memory"
        )
    begin, window = 0, b""

    def length_at(start: int) -> int:
        nonlocal begin, window
        if start + _LENGTH.size > begin + len(window):
            begin, window = start, read(start, min(_WINDOW, size - start))
        return int(_LENGTH.unpack_from(window, start - begin)[0])

    for _ in _elements(length_at, size, shape, what):
        pass


def _strings_from_bytes(data: bytes, shape: tuple[int, ...], what: str) -> Array:
    def length_at(start: int) -> int:
        return int(_LENGTH.unpack_from(data, start)[0])

    found = _elements(length_at, len(data), shape, what)
    return array_of_strings([data[body:end] for body, end in found], shape)


def _elements(
    length_at: Callable[[int], int], size: int, shape: Sequence[int], what: str
) -> Iterator[tuple[int, int]]:
    """Begin and end of each element in data of ``size`` bytes, once its length fits.

    Raises:
        InvalidInput: As many elements as the shape takes do not fill the data.
    """
    count = math.prod(shape)
    start = 0
    for number in range(count):
        if start == size:
            raise InvalidInput(
                f"{what} holds {number} elements; BYTES {format_shape(shape)} takes {count}"
            )
        body = start + _LENGTH.size
        if body > size:
            raise InvalidInput(f"{what} ends inside the length of element {number}")
        end = body + length_at(start)
        if end > size:
            raise InvalidInput(
                f"{what} ends inside element {number}, which should have {end - body} bytes"
            )
        yield body, end
        start = end
    if start < size:
        raise InvalidInput(f"{what} has {size - start} bytes after its {count} elements")


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
