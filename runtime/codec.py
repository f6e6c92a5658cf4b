"""Messages of the Open Inference Protocol v2 to arrays and back, for server and client.

A tensor's data is in ``raw_input_contents`` (``raw_output_contents``), one buffer a tensor
in their order, or in the one field of ``contents`` that fits its data type; a message uses
one way for all its tensors. Ours are written raw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from protos import ModelInferRequest, ModelInferResponse
from runtime.errors import InvalidInput, Unimplemented
from runtime.tensor_bytes import (
    array_from_bytes,
    array_of_strings,
    bytes_from_array,
    checked_shape,
    dtype_of_array,
)
from runtime.tensors import (
    BY_WIRE,
    Array,
    DType,
    TensorSpec,
    check_array,
    check_shape,
    format_shape,
)

Tensor: TypeAlias = ModelInferRequest.InferInputTensor | ModelInferResponse.InferOutputTensor

CONTENTS = {
    "bool": "bool_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "string": "bytes_contents",
}
"""The field of ``contents`` for each data type; one that is not here goes raw only."""

_SHARED_MEMORY = "shared_memory_region"

Stored: TypeAlias = Callable[[ModelInferRequest.InferInputTensor, DType], bytes]
"""The raw data of an input that is in shared memory, whose type and shape are those that the
model wants. Nothing of another size is read."""


def _no_memory(tensor: ModelInferRequest.InferInputTensor, _dtype: DType) -> bytes:
    raise Unimplemented(
        f"input {_quoted(tensor.name)} is in shared memory, which is not read here; "
        "send the data in the request"
    )


def arrays_from_request(
    request: ModelInferRequest, specs: Mapping[str, TensorSpec], stored: Stored = _no_memory
) -> dict[str, Array]:
    """The inputs of a request, checked against what the model wants.

    Args:
        request: What a client sent.
        specs: Every input of the model by name.
        stored: Reads an input whose parameters name a region of shared memory; such an
            input has no raw contents.

    Returns:
        An array for each input, in the order of ``specs``. Raw numbers are read-only
        views of the message's bytes.

    Raises:
        InvalidInput: An input is missing, unknown, there twice, or its type, shape or
            data are not what they must be; the text says both sides.
    """
    _check_names([tensor.name for tensor in request.inputs], specs)
    regional = False
    for tensor in request.inputs:
        _check_type(tensor, specs[tensor.name])
        regional = regional or _SHARED_MEMORY in tensor.parameters
    if regional:
        arrays = _arrays_with_stored(request, specs, stored)
    else:
        arrays = _arrays_from_tensors(request.inputs, request.raw_input_contents, "input")
    sizes: dict[str, int] = {}
    for name, spec in specs.items():
        check_array(arrays[name], spec, sizes)
    return {name: arrays[name] for name in specs}


def requested_outputs(
    request: ModelInferRequest, available: Collection[str], on_request: Collection[str] = ()
) -> list[str]:
    """Names of the outputs to send.

    Args:
        request: What a client sent.
        available: All outputs of the model, in its order.
        on_request: Those that are sent only when they are named.

    Returns:
        The named ones in the client's order; without any name, all but ``on_request``.

    Raises:
        InvalidInput: A name is unknown or there twice.
    """
    if not request.outputs:
        return [name for name in available if name not in on_request]
    names: list[str] = []
    for output in request.outputs:
        if output.name not in available:
            raise InvalidInput(
                f"output {_quoted(output.name)} is not known; the model has {', '.join(available)}"
            )
        if output.name in names:
            raise InvalidInput(f"output '{output.name}' is asked for twice; name it once")
        names.append(output.name)
    return names


def response_from_arrays(
    arrays: Mapping[str, Array], *, model: str, version: str, request_id: str = ""
) -> ModelInferResponse:
    """The answer to a request, raw.

    Args:
        arrays: Outputs by name, in the order to send.
        model: Name of the model.
        version: The version that answered.
        request_id: The client's id, sent back as it came.

    Raises:
        InvalidInput: An array has a type that the protocol lacks.
    """
    response = ModelInferResponse(model_name=model, model_version=version, id=request_id)
    for name, array in arrays.items():
        dtype = dtype_of_array(array, f"output '{name}'")
        response.outputs.add(name=name, datatype=dtype.wire, shape=array.shape)
        response.raw_output_contents.append(bytes_from_array(array, f"output '{name}'"))
    return response


def check_arrays(arrays: Mapping[str, Array]) -> None:
    """Refuse inputs that are no arrays by name.

    Raises:
        InvalidInput: They are no mapping, or one of them is no NumPy array.
    """
    if not isinstance(arrays, Mapping):
        raise InvalidInput(f"the inputs are a {_kind(arrays)}; wanted arrays by name")
    check_texts(**{f"input {place}": name for place, name in enumerate(arrays)})
    for name, array in arrays.items():
        if not isinstance(array, (np.ndarray, np.generic)):
            raise InvalidInput(f"input '{name}' is a {_kind(array)}; wanted a NumPy array")


def check_texts(**values: str) -> None:
    """Refuse what a message cannot have as text, named as the caller calls it.

    Raises:
        InvalidInput: One of them is no text.
    """
    for what, value in values.items():
        if not isinstance(value, str):
            raise InvalidInput(f"{what} is {value!r}, a {_kind(value)}; wanted text")


def _kind(value: object) -> str:
    return type(value).__name__


def request_from_arrays(
    arrays: Mapping[str, Array],
    *,
    model: str,
    version: str = "",
    request_id: str = "",
    outputs: Sequence[str] = (),
) -> ModelInferRequest:
    """A request, raw.

    Args:
        arrays: Inputs by name.
        model: Name of the model.
        version: The version to ask; the server chooses where it is empty.
        request_id: Comes back with the answer.
        outputs: The outputs wanted; all where none are named.

    Raises:
        InvalidInput: An array has a type that the protocol lacks, or is none; a name is no text.
    """
    check_arrays(arrays)
    if isinstance(outputs, str):
        raise InvalidInput(f"the outputs are the text '{outputs}'; wanted a list of names")
    check_texts(model=model, version=version, request_id=request_id)
    check_texts(**{f"output {place}": name for place, name in enumerate(outputs)})
    request = ModelInferRequest(model_name=model, model_version=version, id=request_id)
    for name, array in arrays.items():
        dtype = dtype_of_array(array, f"input '{name}'")
        request.inputs.add(name=name, datatype=dtype.wire, shape=array.shape)
        request.raw_input_contents.append(bytes_from_array(array, f"input '{name}'"))
    for name in outputs:
        request.outputs.add(name=name)
    return request


def arrays_from_response(response: ModelInferResponse) -> dict[str, Array]:
    """The outputs of an answer by name; each array belongs to the caller.

    Raises:
        InvalidInput: The answer contradicts itself: type, shape and data do not fit.
    """
    arrays = _arrays_from_tensors(response.outputs, response.raw_output_contents, "output")
    return {
        name: array if array.flags.writeable else array.copy() for name, array in arrays.items()
    }


def _check_names(given: Sequence[str], specs: Mapping[str, TensorSpec]) -> None:
    """Every input once and no other."""
    for name in given:
        if name not in specs:
            raise InvalidInput(
                f"input {_quoted(name)} is not known; the model has {', '.join(specs)}"
            )
    for name, spec in specs.items():
        if name not in given:
            raise InvalidInput(f"input '{name}' is missing; the model wants {spec}")


def _check_type(tensor: ModelInferRequest.InferInputTensor, spec: TensorSpec) -> None:
    """Before the data is looked at: bytes of another type rarely fit, and say less."""
    dtype = BY_WIRE.get(tensor.datatype)
    if dtype is not None and dtype.name != spec.dtype:
        raise InvalidInput(
            f"input '{spec.name}' has data type {dtype.name}; the model wants {spec}"
        )


def _arrays_with_stored(
    request: ModelInferRequest, specs: Mapping[str, TensorSpec], stored: Stored
) -> dict[str, Array]:
    """The inputs of a request of which some are in shared memory."""
    sent = [tensor for tensor in request.inputs if _SHARED_MEMORY not in tensor.parameters]
    arrays = _arrays_from_tensors(sent, request.raw_input_contents, "input")
    for tensor in request.inputs:
        if _SHARED_MEMORY not in tensor.parameters:
            continue
        what = f"input {_quoted(tensor.name)}"
        if tensor.name in arrays:
            raise InvalidInput(f"{what} is there twice; send it once")
        dtype = _dtype(tensor, what)
        check_shape(checked_shape(tensor.shape, dtype, what), specs[tensor.name], {})
        arrays[tensor.name] = array_from_bytes(stored(tensor, dtype), dtype, tensor.shape, what)
    return arrays


def _dtype(tensor: Tensor, what: str) -> DType:
    dtype = BY_WIRE.get(tensor.datatype)
    if dtype is None:
        raise InvalidInput(
            f"{what} has data type {_quoted(tensor.datatype)}; use one of {', '.join(BY_WIRE)}"
        )
    return dtype


def _arrays_from_tensors(
    tensors: Sequence[Tensor], buffers: Sequence[bytes], kind: str
) -> dict[str, Array]:
    decode = _raw_decoder(tensors, buffers, kind) if buffers else _array_from_contents
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        what = f"{kind} {_quoted(tensor.name)}"
        if tensor.name in arrays:
            raise InvalidInput(f"{what} is there twice; send it once")
        arrays[tensor.name] = decode(index, tensor, _dtype(tensor, what), what)
    return arrays


_Decoder: TypeAlias = Callable[[int, Tensor, DType, str], Array]


def _raw_decoder(tensors: Sequence[Tensor], buffers: Sequence[bytes], kind: str) -> _Decoder:
    field = f"raw_{kind}_contents"
    for tensor in tensors:
        if tensor.HasField("contents") and tensor.contents.ListFields():
            raise InvalidInput(
                f"{kind} {_quoted(tensor.name)} has its data in contents, others in {field}; "
                "use one of the two for all"
            )
    if len(buffers) != len(tensors):
        raise InvalidInput(
            f"{field} holds {len(buffers)} buffers for {len(tensors)} {kind}s; wanted one each"
        )

    def decode(index: int, tensor: Tensor, dtype: DType, what: str) -> Array:
        return array_from_bytes(buffers[index], dtype, tensor.shape, what)

    return decode


def _array_from_contents(_index: int, tensor: Tensor, dtype: DType, what: str) -> Array:
    shape = checked_shape(tensor.shape, dtype, what)
    field = CONTENTS.get(dtype.name)
    if field is None:
        raise InvalidInput(f"{what} is {dtype.wire}, which contents cannot hold; send it raw")
    for other, _ in tensor.contents.ListFields():
        if other.name != field:
            raise InvalidInput(
                f"{what} is {dtype.wire} with data in {other.name}; {field} is its field"
            )
    values: Sequence[bytes] = getattr(tensor.contents, field)
    count = math.prod(shape)
    if len(values) != count:
        raise InvalidInput(
            f"{what} has {len(values)} elements in {field}; "
            f"{dtype.wire} {format_shape(shape)} takes {count}"
        )
    if dtype.size == 0:
        return array_of_strings(list(values), shape)
    return _numbers(values, dtype, what).reshape(shape)


def _numbers(values: Sequence[object], dtype: DType, what: str) -> Array:
    """Narrow integers ride in 32-bit fields; one that does not fit is refused."""
    wanted = np.dtype(dtype.name)
    if wanted.kind not in "iu" or wanted.itemsize >= 4:
        return np.fromiter(values, wanted, len(values))
    wide = np.fromiter(values, np.int64, len(values))
    limits = np.iinfo(wanted)
    outside = wide[(wide < limits.min) | (wide > limits.max)]
    if outside.size:
        raise InvalidInput(
            f"{what} has the element {outside[0]}; {dtype.wire} takes {limits.min} to {limits.max}"
        )
    return wide.astype(wanted)


def _quoted(text: str) -> str:
    """What a client sent, for an error: quoted and not longer than a line."""
    return f"'{text if len(text) <= 80 else text[:80] + '…'}'"
