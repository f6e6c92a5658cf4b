"""What a request says of its place in the queue: Triton's ``priority`` and ``timeout``."""

from __future__ import annotations

from protos import ModelInferRequest
from runtime.errors import InvalidInput

_MICRO = 1e-6
_LARGEST = 2**63 - 1


def priority_of(request: ModelInferRequest) -> int:
    """Level, 1 the highest; 0 where the request names none.

    Raises:
        InvalidInput: It is no number, or below 0.
    """
    return _whole(request, "priority")


def timeout_s_of(request: ModelInferRequest) -> float:
    """The longest time in the queue in seconds (it is sent in microseconds); 0 where none is set.

    Raises:
        InvalidInput: It is no number, or below 0.
    """
    return _whole(request, "timeout") * _MICRO


def _whole(request: ModelInferRequest, name: str) -> int:
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    if kind == "int64_param":
        value = parameter.int64_param
    elif kind == "uint64_param":
        value = parameter.uint64_param
    else:
        value = -1
    if not 0 <= value <= _LARGEST:
        raise InvalidInput(
            f"the parameter '{name}' is not a whole number of at least 0, which is wanted"
        )
    return value
