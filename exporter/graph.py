"""A module becomes an ONNX graph: torch.export first, torch.onnx after.

The other way round, torch.onnx alone accepts free axes that the graph then cannot take.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    contextmanager,
    nullcontext,
    redirect_stderr,
    redirect_stdout,
)

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import OutputFixPass

from exporter.experts.opaque import opaque_layers
from exporter.experts.suspects import CURE, suspects_of
from exporter.outputs import named_outputs
from exporter.passes.run import run_passes
from exporter.passes.tidy import TIDY
from exporter.ranges import range_of
from exporter.source import Source
from runtime.errors import ExportError, InvalidInput
from runtime.manifest import LOAD_OUTPUT
from runtime.tensors import TensorSpec, numpy_dtype

OPSETS = range(18, 26)
DEFAULT_OPSET = 20

_DTYPES = {
    ir.DataType.BOOL: "bool",
    ir.DataType.UINT8: "uint8",
    ir.DataType.UINT16: "uint16",
    ir.DataType.UINT32: "uint32",
    ir.DataType.UINT64: "uint64",
    ir.DataType.INT8: "int8",
    ir.DataType.INT16: "int16",
    ir.DataType.INT32: "int32",
    ir.DataType.INT64: "int64",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.FLOAT: "float32",
    ir.DataType.DOUBLE: "float64",
    ir.DataType.STRING: "string",
}


def onnx_from_module(source: Source, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Export a module with its names and free axes.

    Raises:
        InvalidInput: The opset is not one that the exporter and the runtimes share.
        ExportError: torch.export or torch.onnx cannot take the module.
    """
    if opset not in OPSETS:
        raise InvalidInput(f"opset {opset} is not supported; use {OPSETS[0]} to {OPSETS[-1]}")
    examples = example_inputs(source)
    names = _output_names(source, examples)
    shapes = dynamic_shapes(source)
    with _quiet(), _as_exported(source):
        program = _captured(source, examples, shapes)
        model = _converted(program, examples, shapes, source, names, opset)
    _name_ends(model, [spec.name for spec in source.inputs], names)
    return run_passes(model, TIDY)


def example_inputs(source: Source) -> dict[str, torch.Tensor]:
    """An example for each input, every free axis at a size of its own above one."""
    axes = free_axes(source.inputs)
    sizes = {
        axis: min(max(2 + i, range_of(axis, source.ranges)[0]), range_of(axis, source.ranges)[1])
        for i, axis in enumerate(axes)
    }
    examples: dict[str, torch.Tensor] = {}
    for spec in source.inputs:
        shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape]
        low = source.values.get(spec.name, (0, 1))[0]
        examples[spec.name] = torch.from_numpy(np.full(shape, low, numpy_dtype(spec.dtype)))
    return examples


def free_axes(inputs: tuple[TensorSpec, ...]) -> list[str]:
    """Names of the free axes in the order they are met."""
    return list(dict.fromkeys(a for spec in inputs for a in spec.shape if isinstance(a, str)))


def dynamic_shapes(source: Source) -> dict[str, dict[int, torch.export.Dim]]:
    """What torch.export wants to know: the named dimension of each free axis by input."""
    dims: dict[str, torch.export.Dim] = {}
    for axis in free_axes(source.inputs):
        low, high = range_of(axis, source.ranges)
        if low < high:
            dims[axis] = torch.export.Dim(axis, min=low, max=high)
    return {
        spec.name: {i: dims[axis] for i, axis in enumerate(spec.shape) if axis in dims}
        for spec in source.inputs
    }


def specs_from_values(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    """Specifications of a graph's inputs or outputs.

    Raises:
        ExportError: A value has a type that cannot be served.
    """
    specs: list[TensorSpec] = []
    for value in values:
        name = value.name or ""
        if value.dtype not in _DTYPES or value.shape is None:
            raise ExportError(f"output '{name}' has type {value.dtype}, which cannot be served")
        axes = (
            dim if isinstance(dim, int) else str(dim.value or f"{name}_axis_{i}")
            for i, dim in enumerate(value.shape)
        )
        specs.append(TensorSpec(name, _DTYPES[value.dtype], tuple(axes)))
    return tuple(specs)


def _output_names(source: Source, examples: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the outputs, from one eager call."""
    try:
        with torch.no_grad():
            result = source.module(**examples)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in examples.items())
        raise ExportError(
            f"the module itself fails on {shapes}: {_first_line(error)}; "
            "check --input, and --range for free axes and --values for integer inputs"
        ) from error
    values = named_outputs(result)
    for name, value in values.items():
        if value.is_complex():
            raise ExportError(
                f"output '{name}' is complex, which cannot be served; "
                "return torch.view_as_real of it"
            )
    own = list(values)
    if source.experts and LOAD_OUTPUT in own:
        raise ExportError(f"the module has an output '{LOAD_OUTPUT}' of its own; rename it")
    if source.output_names and len(source.output_names) != len(own):
        raise ExportError(f"the module gives {len(own)} outputs, {source.output_names} are named")
    names = list(source.output_names) or own
    taken = {spec.name for spec in source.inputs}
    names = [f"{name}_out" if name in taken else name for name in names]
    return [*names, LOAD_OUTPUT] if source.experts else names


def _as_exported(source: Source) -> AbstractContextManager[None]:
    """With layers of experts, the module as it is while it is exported."""
    return opaque_layers(source.module, source.experts) if source.experts else nullcontext()


def _captured(
    source: Source,
    examples: Mapping[str, torch.Tensor],
    shapes: Mapping[str, dict[int, torch.export.Dim]],
) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(
            source.module, (), kwargs=dict(examples), dynamic_shapes=dict(shapes), strict=False
        )
    except Exception as error:
        if suspects := suspects_of(source.module, source.experts):
            raise ExportError(
                f"torch.export cannot capture {suspects[0]}, which chooses experts by the data "
                f"({type(error).__name__}); {CURE}"
            ) from error
        raise ExportError(
            f"torch.export cannot capture {type(source.module).__name__}: "
            f"{_why_not_captured(error)}"
        ) from error


def _converted(
    program: torch.export.ExportedProgram,
    examples: Mapping[str, torch.Tensor],
    shapes: Mapping[str, dict[int, torch.export.Dim]],
    source: Source,
    outputs: list[str],
    opset: int,
) -> ir.Model:
    try:
        # Names and axes are lost on the way unless they are given a second time. What torch
        # would optimise, our own passes do, which keep names and modules.
        converted = torch.onnx.export(
            program, (), kwargs=dict(examples), dynamo=True, opset_version=opset,
            dynamic_shapes=dict(shapes), input_names=[spec.name for spec in source.inputs],
            output_names=outputs, verbose=False, optimize=False,
        )  # fmt: skip
    except Exception as error:
        raise ExportError(
            f"torch.onnx cannot convert {type(source.module).__name__}: {_first_line(error)}"
        ) from error
    assert converted is not None
    # An output that is an input or another output, too, gets a node of its own.
    model: ir.Model = OutputFixPass()(converted.model).model
    return model


def _name_ends(model: ir.Model, inputs: list[str], outputs: list[str]) -> None:
    """Postcondition: the graph's ends are called what the user calls them, in order."""
    if [value.name for value in model.graph.inputs] != inputs:
        given = [str(value.name) for value in model.graph.inputs]
        raise ExportError(
            f"the graph takes {', '.join(given)}, forward {', '.join(inputs)}; "
            "an input that the outputs do not depend on cannot be kept: leave it out"
        )
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _why_not_captured(error: BaseException) -> str:
    """What torch.export says, and of a violated constraint the line that names the cause."""
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip()]
    if not lines or not lines[0].startswith("Constraints violated"):
        return _first_line(error)
    cause = (lines[1] if len(lines) > 1 else lines[0]).partition(". ")[0]
    return f"{cause}; give that axis a number in --input, or one size with --range"


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters of torch log, warn and print about their own insides; errors still raise."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
