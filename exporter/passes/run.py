"""Run passes in their order and check what they leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import onnx
import onnx_ir as ir

from runtime.errors import ExportError

log = logging.getLogger(__name__)

Pass = Callable[[ir.Model], tuple[ir.Model, bool]]


def run_passes(model: ir.Model, passes: Iterable[Pass]) -> ir.Model:
    """Apply each pass once; the graph's inputs and outputs keep their names.

    Raises:
        ExportError: A pass lost an input or output, or left a graph that ONNX's checker
            refuses; the text names the pass.
    """
    for change in passes:
        before = _ends(model)
        model, changed = change(model)
        if _ends(model) != before:
            raise ExportError(f"pass {change.__name__} changed the graph's inputs or outputs")
        log.debug("pass %s: %s", change.__name__, "changed" if changed else "nothing to do")
    try:
        onnx.checker.check_model(ir.to_proto(model))
    except onnx.checker.ValidationError as error:
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"the graph is not valid ONNX: {first}") from error
    return model


def _ends(model: ir.Model) -> tuple[list[str | None], list[str | None]]:
    graph = model.graph
    return [value.name for value in graph.inputs], [value.name for value in graph.outputs]
