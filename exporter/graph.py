"""A module becomes an ONNX graph: torch.export first, torch.onnx after.

The other way round, torch.onnx alone accepts free axes that the graph then cannot take.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import OutputFixPass

from exporter.blame.explain import not_captured, not_converted
from exporter.ends import name_ends, output_names
from exporter.experts.opaque import opaque_layers
from exporter.inner import with_inner_outputs
from exporter.passes.run import run_passes
from exporter.passes.tidy import TIDY
from exporter.ranges import range_of
from exporter.recurrent import recurrent_operators
from exporter.source import Source
from runtime.errors import ExportError, InvalidInput
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
    shapes = dynamic_shapes(source)
    with _quiet():
        names = output_names(source, examples)
        with _as_exported(source):
            program = _captured(source, examples, shapes)
            model = _converted(program, examples, shapes, source, names, opset)
    name_ends(model, [spec.name for spec in source.inputs], names)
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


@contextmanager
def _as_exported(source: Source) -> Iterator[None]:
    """The module as it is while it is exported: some layers are an operator as a whole."""
    with ExitStack() as stack:
        stack.enter_context(recurrent_operators(source.module))
        if source.experts:
            stack.enter_context(opaque_layers(source.module, source.experts))
        stack.enter_context(with_inner_outputs(source.module, source.also))
        yield


def _captured(
    source: Source,
    examples: Mapping[str, torch.Tensor],
    shapes: Mapping[str, dict[int, torch.export.Dim]],
) -> torch.export.ExportedProgram:
    if source.program is not None:
        return source.program

    def capture() -> torch.export.ExportedProgram:
        return torch.export.export(
            source.module, (), kwargs=dict(examples), dynamic_shapes=dict(shapes), strict=False
        )

    try:
        return capture()
    except Exception as error:
        raise not_captured(source, error, capture) from error


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
        raise not_converted(source, error) from error
    assert converted is not None
    # An output that is an input or another output, too, gets a node of its own.
    model: ir.Model = OutputFixPass()(converted.model).model
    return model


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
