"""The ends of a graph are called what the user calls them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir
import torch

from exporter.blame.explain import not_run
from exporter.inner import InnerOutputs, is_inner
from exporter.outputs import named_outputs
from exporter.source import Source
from runtime.errors import ExportError
from runtime.manifest import LOAD_OUTPUT


def output_names(source: Source, examples: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the outputs in their order, from one eager call.

    The module's own come first, then the load of experts, then those of inner modules.

    Raises:
        ExportError: The module fails, or returns what cannot be named or served.
    """
    inner = InnerOutputs(source.module, source.also)
    try:
        with torch.no_grad(), inner.on():
            result = source.module(**examples)
    except Exception as error:
        raise not_run(source, examples, error) from error
    values, also = named_outputs(result), inner.named()
    _check_types(values | also)
    taken = {spec.name for spec in source.inputs}
    _check_clashes(source, [*values, *taken])
    if source.output_names and len(source.output_names) != len(values):
        raise ExportError(
            f"the module gives {len(values)} outputs, {source.output_names} are named"
        )
    own = [f"{name}_out" if name in taken else name for name in source.output_names or values]
    return [*own, *((LOAD_OUTPUT,) if source.experts else ()), *also]


def name_ends(model: ir.Model, inputs: list[str], outputs: list[str]) -> None:
    """Postcondition of an export: names as they were asked for, in order.

    Raises:
        ExportError: An input is gone.
    """
    given = [str(value.name) for value in model.graph.inputs]
    if given != inputs:
        raise ExportError(
            f"the graph takes {', '.join(given) or 'nothing'}, forward {', '.join(inputs)}; "
            "an input that the outputs do not depend on cannot be kept: leave it out"
        )
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name


def _check_types(values: Mapping[str, torch.Tensor]) -> None:
    for name, value in values.items():
        if value.is_complex():
            raise ExportError(
                f"output '{name}' is complex, which cannot be served; "
                "return torch.view_as_real of it"
            )
        if value.layout is not torch.strided:
            raise ExportError(
                f"output '{name}' is sparse, which cannot be served; return .to_dense() of it"
            )


def _check_clashes(source: Source, names: Iterable[str]) -> None:
    for name in names:
        if is_inner(name, source.also):
            raise ExportError(
                f"'{name}' is an input or an output of the module already; rename it, or leave "
                "out the --also-output that gives the same name"
            )
        if source.experts and name == LOAD_OUTPUT:
            raise ExportError(f"the module has '{LOAD_OUTPUT}' of its own; rename it")
