"""What a request wants of each output, and the answer in that form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protos import ModelInferRequest, ModelInferResponse
from runtime.codec import requested_outputs, response_from_arrays
from runtime.errors import InvalidInput
from runtime.model import ModelRecord
from runtime.service.classification import check_classes, classes_from_array
from runtime.service.regions import Place
from runtime.service.shared_memory import BYTE_SIZE, OFFSET, REGION, SharedMemory
from runtime.tensor_bytes import bytes_from_array, dtype_of_array
from runtime.tensors import Array

_CLASSIFICATION = "classification"
_MOST_CLASSES = 2**31 - 1


@dataclass(frozen=True)
class Wanted:
    """The form of one output.

    Attributes:
        classes: How many of the best classes in place of the numbers; 0 for the numbers.
        place: Where in shared memory; none sends it in the answer.
    """

    classes: int = 0
    place: Place | None = None


def wanted_outputs(
    request: ModelInferRequest, record: ModelRecord, memory: SharedMemory
) -> tuple[list[str], dict[str, Wanted]]:
    """Names of the outputs to compute, and those that are not sent plainly.

    Raises:
        InvalidInput: A name or a parameter that cannot be.
        NotFound: A region that is not registered.
    """
    names = requested_outputs(request, record.outputs, record.on_request)
    special: dict[str, Wanted] = {}
    for output in request.outputs:
        if not output.parameters:
            continue
        classes, place = _classes(output, record), None
        if REGION in output.parameters:
            place = memory.place(output.parameters, f"output '{output.name}'")
        if classes and place is not None:
            raise InvalidInput(
                f"output '{output.name}' is wanted as classes and in shared memory; "
                "use one of the two"
            )
        special[output.name] = Wanted(classes, place)
    return names, special


def response_with(
    answers: Mapping[str, Array],
    special: Mapping[str, Wanted],
    record: ModelRecord,
    request_id: str,
) -> ModelInferResponse:
    """The answer to a request, each output in its form.

    Raises:
        InvalidInput: An output does not fit into its place; then nothing was written.
    """
    version = str(record.version)
    if not special:
        return response_from_arrays(
            answers, model=record.name, version=version, request_id=request_id
        )
    arrays = dict(answers)
    stored: dict[str, tuple[Place, bytes]] = {}
    for name, wanted in special.items():
        if wanted.classes:
            arrays[name] = classes_from_array(
                arrays[name], wanted.classes, record.labels.get(name, ()),
                batched=record.max_batch_size > 0,
            )  # fmt: skip
        elif wanted.place is not None:
            data = bytes_from_array(arrays[name], f"output '{name}'")
            wanted.place.check_fits(len(data), name)
            stored[name] = wanted.place, data
    plain = {name: array for name, array in arrays.items() if name not in stored}
    response = response_from_arrays(
        plain, model=record.name, version=version, request_id=request_id
    )
    return _with_stored(response, arrays, stored) if stored else response


def _with_stored(
    plain: ModelInferResponse,
    arrays: Mapping[str, Array],
    stored: Mapping[str, tuple[Place, bytes]],
) -> ModelInferResponse:
    """The answer with outputs in shared memory, in the order of ``arrays``.

    Each output has an entry in the raw contents, as in Triton: clients count them.
    """
    sent = {
        output.name: (output, data)
        for output, data in zip(plain.outputs, plain.raw_output_contents, strict=True)
    }
    response = ModelInferResponse(
        model_name=plain.model_name, model_version=plain.model_version, id=plain.id
    )
    for name, array in arrays.items():
        if name in sent:
            output, data = sent[name]
            response.outputs.append(output)
            response.raw_output_contents.append(data)
            continue
        place, data = stored[name]
        place.write(data)
        output = response.outputs.add(
            name=name, datatype=dtype_of_array(array, name).wire, shape=array.shape
        )
        output.parameters[REGION].string_param = place.region.name
        output.parameters[BYTE_SIZE].int64_param = len(data)
        if place.offset:
            output.parameters[OFFSET].int64_param = place.offset
        response.raw_output_contents.append(b"")
    return response


def _classes(output: ModelInferRequest.InferRequestedOutputTensor, record: ModelRecord) -> int:
    if _CLASSIFICATION not in output.parameters:
        return 0
    count = output.parameters[_CLASSIFICATION].int64_param
    if not 1 <= count <= _MOST_CLASSES:
        raise InvalidInput(
            f"output '{output.name}' has the parameter '{_CLASSIFICATION}' without a number of "
            "classes; wanted a whole number of at least 1"
        )
    check_classes(output.name, record.outputs[output.name].dtype)
    return count
