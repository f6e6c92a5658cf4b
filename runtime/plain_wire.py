"""The usual answer, on the short way: arrays of numbers, most of it the same as the last one.

Requests have theirs in ``runtime/request_forms.py``; what is unusual goes the long way of
``runtime/codec.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from protos import ModelInferResponse
from runtime.tensors import BY_WIRE, Array

NUMBERS = {
    wire: np.dtype(dtype.name).newbyteorder("<")
    for wire, dtype in BY_WIRE.items()
    if dtype.name not in ("bool", "string")
}
"""Types of which any bytes are good elements, by their name on the wire."""
_WIRE_OF_CODE = {dtype.str: wire for wire, dtype in NUMBERS.items()}
"""By NumPy's code, which says the order of bytes too."""
_MOST_HEADS = 1024
_FIELDS = ModelInferResponse.DESCRIPTOR.fields_by_name
_DELIMITED = 2
"""The wire type of texts and bytes, in protobuf's encoding."""
_ID, _RAW = (
    bytes([_FIELDS[name].number << 3 | _DELIMITED]) for name in ("id", "raw_output_contents")
)

_Form: TypeAlias = tuple[str, "np.dtype[Any]", tuple[int, ...]]
"""An output's name, type and shape."""


class PlainAnswers:
    """Answers as bytes.

    All but the id and the data is the same in every answer of one version and shape; it is
    serialised once. Protobuf takes the fields of a message in any order and in pieces.
    """

    def __init__(self) -> None:
        self._heads: dict[tuple[str, int, tuple[_Form, ...]], bytes] = {}

    def answer(
        self, arrays: Mapping[str, Array], *, model: str, version: int, request_id: str = ""
    ) -> bytes | None:
        """A serialised ``ModelInferResponse``; none where an output holds no plain numbers.

        Args:
            arrays: Outputs by name, in the order to send.
            model: Name of the model.
            version: The version that answered.
            request_id: The client's id, sent back as it came.
        """
        forms = tuple([(name, array.dtype, array.shape) for name, array in arrays.items()])
        head = self._heads.get((model, version, forms)) or self._head(model, version, forms)
        if not head:
            return None
        parts = [head]
        if request_id:
            encoded = request_id.encode()
            parts += (_ID, _varint(len(encoded)), encoded)
        for array in arrays.values():
            parts += (_RAW, _varint(array.nbytes), array.tobytes())
        return b"".join(parts)

    def _head(self, model: str, version: int, forms: tuple[_Form, ...]) -> bytes:
        """What comes before id and data; empty where a type is no plain number."""
        if any(dtype.str not in _WIRE_OF_CODE for _, dtype, _ in forms):
            return b""
        response = ModelInferResponse(model_name=model, model_version=str(version))
        for name, dtype, shape in forms:
            response.outputs.add(name=name, datatype=_WIRE_OF_CODE[dtype.str], shape=shape)
        if len(self._heads) >= _MOST_HEADS:
            self._heads.clear()
        head = self._heads[model, version, forms] = response.SerializeToString()
        return head


def _varint(number: int) -> bytes:
    """Protobuf's encoding of a number that is not negative."""
    if number < 0x80:
        return bytes((number,))
    parts = bytearray()
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
