"""The lower precisions by name, and what each is in a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

INT8 = "int8"


@dataclass(frozen=True)
class FloatKind:
    """A float type below float32.

    Attributes:
        name: The precision's.
        dtype: ONNX's type.
        largest: What is larger becomes infinite.
        smallest: Least positive number that keeps all its bits.
        opset: The first whose convolutions take the type.
    """

    name: str
    dtype: ir.DataType
    largest: float
    smallest: float
    opset: int


FLOATS: Mapping[str, FloatKind] = {
    "fp16": FloatKind("fp16", ir.DataType.FLOAT16, 65504.0, 2.0**-14, 1),
    "bf16": FloatKind("bf16", ir.DataType.BFLOAT16, 3.3895313892515355e38, 2.0**-126, 22),
}
LOWER = (*FLOATS, INT8)
"""Every precision below fp32."""


def lower_name(name: str, precision: str) -> str:
    """``lenet5_fp16``."""
    return f"{name}_{precision}"
