"""What torch.export and torch.onnx stumble over, in plain words, with the usual cure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from exporter.said import first_line


@dataclass(frozen=True)
class Reason:
    """What is in the way, and what usually helps."""

    what: str
    cure: str


@dataclass(frozen=True)
class _Known:
    """One kind of failure: what the exception's class and text look like."""

    pattern: re.Pattern[str]
    reason: Reason


def _known(pattern: str, what: str, cure: str) -> _Known:
    return _Known(re.compile(pattern, re.DOTALL), Reason(what, cure))


_TABLE = (
    _known(
        r"GuardOnDataDependent",
        "a branch, a loop or a number of Python depends on the values of a tensor",
        "choose with torch.where or torch.cond, or make the number a constant of the module",
    ),
    _known(
        r"\.numpy\(\) is not supported|call numpy\(\) on|Cannot access data pointer|"
        r"expected np\.ndarray",
        "the values of a tensor leave torch, for NumPy as a rule",
        "use operators of torch in forward",
    ),
    _known(
        r"not on the expected device|tensors to be on the same device|two different devices|"
        r"not compiled with CUDA|No CUDA GPUs|no NVIDIA driver|Device Propagation",
        "tensors of two devices meet, and the export runs on the CPU",
        "make tensors in forward with device=x.device, or register them as buffers",
    ),
    _known(
        r"UnsupportedOperatorException: (?P<op>[\w.:]+)|no fake impl or Meta kernel",
        "{op} has no rule by which it can be traced",
        "replace it, or register one with torch.library.register_fake",
    ),
    _known(
        r"No ONNX function found for <OpOverload\(op='(?P<op>[^']+)'",
        "operator {op} has no form in ONNX",
        "write it with other operators, or compute it outside of the module",
    ),
    _known(
        r"assigned during export|must be registered as buffers",
        "forward keeps a tensor in an attribute",
        "register it as a buffer, or return it",
    ),
    _known(
        r"unbacked|data.dependent",
        "a size depends on the values of a tensor",
        "choose with torch.where or a mask, which keep the size",
    ),
)
_OTHER = "write that line with plain operators of torch"
_ASSERT = "leave the assertion out of forward, or check before the module is called"


def reason_of(error: BaseException, code: str = "") -> Reason:
    """The reason in the table that fits an exception or what caused it.

    Args:
        error: Of torch.
        code: The line of the user's that it came from.
    """
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    for known in _TABLE:
        for text in texts:
            if found := known.pattern.search(text):
                what, cure = known.reason.what, known.reason.cure
                if code.startswith("assert "):
                    what, cure = "an assertion depends on the values of a tensor", _ASSERT
                op = found.groupdict().get("op") or "an operator"
                return Reason(what.format(op=op), cure)
    return Reason(first_line(error), _OTHER)
