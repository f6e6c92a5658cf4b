"""One line for each way in which an export of a module can fail."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch

from exporter.blame.axes import Fixed, line_that_fixes
from exporter.blame.cures import reason_of
from exporter.blame.place import Place, place_of_error, place_of_node
from exporter.experts.suspects import CURE, suspects_of
from exporter.ranges import range_of
from exporter.said import first_line
from exporter.source import Source
from runtime.errors import ExportError

_CONSTRAINTS = "Constraints violated"
_FIX = "give that axis a number in --input, or one size with --range"
_CANNOT = "torch.export cannot capture"


def not_run(source: Source, examples: Mapping[str, torch.Tensor], error: Exception) -> ExportError:
    """The module fails by itself, before anything is exported."""
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in examples.items())
    place = place_of_error(error, source.module)
    where = f" in {place.module}" if place.path else ""
    return ExportError(
        f"the module itself fails on {shapes}{where}: {first_line(error)}{place.at}; "
        "check --input, and --range for free axes and --values for integer inputs"
    )


def not_captured(source: Source, error: Exception, capture: Callable[[], object]) -> ExportError:
    """torch.export gives up.

    Args:
        source: What was to be exported.
        error: What torch.export raised.
        capture: Does the same again, to be watched.
    """
    if isinstance(error, ExportError):
        return error
    if suspects := suspects_of(source.module, source.experts):
        return ExportError(
            f"{_CANNOT} {suspects[0]}, which chooses experts by the data "
            f"({type(error).__name__}); {CURE}"
        )
    if _CONSTRAINTS in str(error):
        return _axis_not_free(source, error, capture)
    place = place_of_error(error, source.module)
    reason = reason_of(error, place.code)
    return ExportError(f"{_CANNOT} {place.module}: {reason.what}{place.at}; {reason.cure}")


def not_converted(source: Source, error: Exception) -> ExportError:
    """torch.onnx gives up."""
    place = place_of_node(error, source.module)
    reason = reason_of(error, place.code)
    return ExportError(
        f"torch.onnx cannot convert {place.module}: {reason.what}{place.at}; {reason.cure}"
    )


def _axis_not_free(source: Source, error: Exception, capture: Callable[[], object]) -> ExportError:
    axes = {axis for spec in source.inputs for axis in spec.shape if isinstance(axis, str)}
    ranges = {axis: range_of(axis, source.ranges) for axis in axes}
    fixed = line_that_fixes(source.module, source.inputs, ranges, capture)
    if fixed is not None:
        return ExportError(f"{_CANNOT} {_said_of_axis(fixed)}")
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    cause = (lines[1] if len(lines) > 1 else lines[0]).partition(". ")[0]
    return ExportError(f"{_CANNOT} {type(source.module).__name__}: {cause}; {_FIX}")


def _said_of_axis(fixed: Fixed) -> str:
    place: Place = fixed.place
    if fixed.size is not None:
        return (
            f"{place.module}: it fixes the free axis '{fixed.axis}' to {fixed.size}{place.at}; "
            f"use an operator of torch in place of a Python loop or number, or {_FIX}"
        )
    condition = re.sub(r"\s+", " ", fixed.condition)
    return (
        f"{place.module}: not every size of the free axis '{fixed.axis}' is possible{place.at}: "
        f"{condition} is false for {fixed.refused}; narrow it with --range, or {_FIX}"
    )
