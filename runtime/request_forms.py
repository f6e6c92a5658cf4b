"""Read the usual request off its bytes, without making a message of it.

A client sends the same request over and over: all but the id and the data are the same bytes.
What those say is read and checked once, as a message (``Form``); of each request, only the
top level of protobuf's encoding is walked, and its data is looked at where it lies. Whatever
is unusual, and every error, goes the long way of ``runtime/codec.py``.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from google.protobuf.message import DecodeError

from protos import ModelInferRequest
from runtime.batch_rows import Shapes
from runtime.codec import requested_outputs
from runtime.errors import TwinportError
from runtime.model import Model
from runtime.plain_wire import NUMBERS
from runtime.tensors import Array, TensorSpec

_FIELDS = ModelInferRequest.DESCRIPTOR.fields_by_name
_DELIMITED = 2
"""The wire type of texts, bytes and messages, in protobuf's encoding."""
_TAGS = {name: field.number << 3 | _DELIMITED for name, field in _FIELDS.items()}
_ID, _RAW = _TAGS["id"], _TAGS["raw_input_contents"]
_OTHERS = frozenset(_TAGS[name] for name in ("model_name", "model_version", "inputs", "outputs"))
_MOST_FORMS = 1024
_LARGEST_FORM = 4096
"""Bytes of a request without id and data above which it is not kept."""

_Place: TypeAlias = tuple[int, int]
"""Offset and length of the data of one input."""
_View: TypeAlias = tuple[str, "np.dtype[np.generic]", tuple[int, ...], int]
"""An input's name, type, shape and bytes."""


class Fit(NamedTuple):
    """How requests of one form are read for one model, all checks passed.

    Attributes:
        views: Of each input, in the order in which the data is sent.
        names: Of the inputs in the model's order.
        shapes: Of the inputs without axis 0, in the model's order.
        outputs: The outputs wanted.
    """

    views: tuple[_View, ...]
    names: tuple[str, ...]
    shapes: Shapes
    outputs: list[str]


class Form:
    """What many requests have in common."""

    def __init__(self, request: ModelInferRequest) -> None:
        self.model_name: str = request.model_name
        self.model_version: str = request.model_version
        self._request = request
        self._model: weakref.ref[Model] | None = None
        self._fit: Fit | None = None

    def fit(self, model: Model) -> Fit | None:
        """How to read it for ``model``; none where anything is not as the model wants it."""
        if self._model is None or self._model() is not model:
            self._fit = _fit(self._request, model)
            self._model = weakref.ref(model)
        return self._fit


class Usual(NamedTuple):
    """One request.

    Attributes:
        form: What it has in common with others.
        request_id: The client's, empty where it sent none.
        places: Where in its bytes the data of each input lies.
    """

    form: Form
    request_id: str
    places: Sequence[_Place]

    def arrays(self, fit: Fit, payload: bytes) -> dict[str, Array] | None:
        """Every input, read-only views of its bytes; none where the data does not fit."""
        if len(self.places) != len(fit.views):
            return None
        arrays: dict[str, Array] = {}
        for (name, dtype, shape, size), (offset, length) in zip(
            fit.views, self.places, strict=True
        ):
            if length != size:
                return None
            arrays[name] = np.ndarray(shape, dtype, payload, offset)
        return arrays if len(arrays) == 1 else {name: arrays[name] for name in fit.names}


class Forms:
    """The forms met so far."""

    def __init__(self) -> None:
        self._forms: dict[bytes, Form | None] = {}
        self._heads: dict[int, tuple[bytes, Usual]] = {}
        """By the length of a request: all bytes before the data, where it ends with that."""

    def read(self, payload: bytes) -> Usual | None:
        """What a request says; none where it is not a usual one.

        Args:
            payload: A serialised ``ModelInferRequest``, or any other bytes.
        """
        head = self._heads.get(len(payload))
        if head is not None and payload.startswith(head[0]):
            return head[1]
        walked = _walked(payload)
        if walked is None:
            return None
        rest, request_id, places = walked
        try:
            form = self._forms[rest]
        except KeyError:
            form = self._learned(rest)
        if form is None:
            return None
        try:
            usual = Usual(form, request_id.decode() if request_id else "", places)
        except UnicodeDecodeError:
            return None
        if not request_id and len(places) == 1 and sum(places[0]) == len(payload):
            if len(self._heads) >= _MOST_FORMS:
                self._heads.clear()
            self._heads[len(payload)] = payload[: places[0][0]], usual
        return usual

    def _learned(self, rest: bytes) -> Form | None:
        if len(rest) > _LARGEST_FORM:
            return None
        if len(self._forms) >= _MOST_FORMS:
            self._forms.clear()
        self._forms[rest] = form = _form(rest)
        return form


def _walked(payload: bytes) -> tuple[bytes, bytes, list[_Place]] | None:
    """The bytes without id and data, the id, and where the data lies.

    None where a field is there that is none of the usual ones, or the bytes are no message.
    """
    rest: list[bytes] = []
    request_id = b""
    places: list[_Place] = []
    at, end = 0, len(payload)
    try:
        while at < end:
            tag, length, start = payload[at], payload[at + 1], at + 2
            if length >= 0x80:
                length, shift = length & 0x7F, 7
                while (byte := payload[start]) >= 0x80:
                    length |= (byte & 0x7F) << shift
                    start, shift = start + 1, shift + 7
                length, start = length | byte << shift, start + 1
            stop = start + length
            if tag == _RAW:
                places.append((start, length))
            elif tag in _OTHERS:
                rest.append(payload[at:stop])
            elif tag == _ID:
                request_id = payload[start:stop]
            else:
                return None
            at = stop
    except IndexError:
        return None
    return (b"".join(rest), request_id, places) if at == end else None


def _form(rest: bytes) -> Form | None:
    try:
        request = ModelInferRequest.FromString(rest)
    except DecodeError:
        return None
    usual = not any(output.parameters for output in request.outputs) and not any(
        tensor.parameters or tensor.HasField("contents") for tensor in request.inputs
    )
    return Form(request) if usual else None


def _fit(request: ModelInferRequest, model: Model) -> Fit | None:
    record = model.record
    views = _views(request, record.inputs)
    if views is None:
        return None
    shapes = {name: shape for name, _, shape, _ in views}
    try:
        model.check_sizes(shapes)
        outputs = requested_outputs(request, record.outputs, record.on_request)
    except TwinportError:
        return None
    names = tuple(record.inputs)
    return Fit(tuple(views), names, tuple(shapes[name][1:] for name in names), outputs)


def _views(request: ModelInferRequest, specs: Mapping[str, TensorSpec]) -> list[_View] | None:
    """The inputs of a request; none where one is missing, there twice, or not as it must be."""
    views: dict[str, _View] = {}
    sizes: dict[str, int] = {}
    for tensor in request.inputs:
        spec = specs.get(tensor.name)
        dtype = NUMBERS.get(tensor.datatype)
        shape = tuple(tensor.shape)
        if spec is None or dtype is None or dtype.name != spec.dtype or spec.name in views:
            return None
        if len(shape) != len(spec.shape):
            return None
        size_bytes = dtype.itemsize
        for size, axis in zip(shape, spec.shape, strict=True):
            expected = axis if isinstance(axis, int) else sizes.setdefault(axis, size)
            # With an axis of 0 the others may be larger than NumPy bears.
            if size != expected or size < 1:
                return None
            size_bytes *= size
        views[spec.name] = (spec.name, dtype, shape, size_bytes)
    return list(views.values()) if len(views) == len(specs) else None
