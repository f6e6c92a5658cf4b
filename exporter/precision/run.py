"""Run a graph that is still in memory, and read inner values off it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.artifact import serialized_graph
from runtime.backends.base import Backend
from runtime.backends.factory import open_backend
from runtime.errors import ExportError, TwinportError
from runtime.tensors import Array

Arrays = Mapping[str, Array]


@contextmanager
def opened(model: ir.Model) -> Iterator[Backend]:
    """The graph on ONNX Runtime's CPU provider."""
    with tempfile.TemporaryDirectory(prefix="twinport-precision-") as folder:
        path = Path(folder) / "model.onnx"
        serialized_graph(model, path.name).write(path)
        with closing(open_backend("onnxruntime", path)) as backend:
            yield backend


def answers_of(
    model: ir.Model, calls: Iterable[Arrays], outputs: Sequence[str]
) -> list[dict[str, Array]]:
    """What a graph gives for each call.

    Raises:
        ExportError: It cannot be run; the text says what ONNX Runtime says.
    """
    try:
        with opened(model) as backend:
            return [backend.infer(call, outputs) for call in calls]
    except TwinportError as error:
        raise ExportError(f"the graph cannot be run to measure its noise: {error}") from error


def exposed(model: ir.Model, values: Iterable[str]) -> ir.Model:
    """A copy of a graph that gives inner float values, too.

    Args:
        model: Typed.
        values: Names of values of the outer graph; what is an end of it already stays one.
    """
    wanted = set(values) - {str(value.name) for value in model.graph.outputs}
    copy = model.clone()
    for node in copy.graph:
        for value in node.outputs:
            if value.name in wanted:
                copy.graph.outputs.append(value)
    return copy


def float_values(model: ir.Model) -> list[str]:
    """Names of everything that the outer graph computes in float32."""
    return [
        str(value.name)
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT and node.op_type != "Constant"
    ]


def largest_magnitudes(model: ir.Model, calls: Sequence[Arrays]) -> dict[str, float]:
    """The largest finite magnitude of each float value, the inputs' too, over all calls.

    Infinity is left out: every float type has it, and masks use it.

    Args:
        model: Typed.
        calls: Inputs by name.

    Raises:
        ExportError: The graph cannot be run.
    """
    outputs = float_values(model)
    largest: dict[str, float] = {}
    shown = exposed(model, outputs)
    for call, answer in zip(calls, each_answer(shown, calls, outputs), strict=True):
        floats = {name: array for name, array in call.items() if array.dtype.kind == "f"}
        for name, array in {**floats, **answer}.items():
            size = float(np.abs(array[np.isfinite(array)]).max(initial=0))
            largest[name] = max(largest.get(name, 0.0), size)
    return largest


def each_answer(model: ir.Model, calls: Sequence[Arrays], outputs: list[str]) -> Iterator[Arrays]:
    """Call after call, so that the values of one are in memory at a time."""
    if not outputs:  # a runtime takes that for all of them
        yield from ({} for _ in calls)
        return
    try:
        with opened(model) as backend:
            for call in calls:
                yield backend.infer(call, outputs)
    except TwinportError as error:
        raise ExportError(f"the graph cannot be run to measure its values: {error}") from error
