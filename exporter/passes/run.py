"""Run passes in their order and check what each needs and what it leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from exporter.layers import scopes_of
from runtime.errors import ExportError

log = logging.getLogger(__name__)

Pass = Callable[[ir.Model], tuple[ir.Model, bool]]
Condition = Callable[[ir.Model], str]
"""What is wrong with a graph, in one line; empty where the condition holds."""

_SMALL_BYTES = 4096
"""ONNX's checker serialises what it checks, which ends at two gigabytes: larger weights stay
away, and nothing that it checks needs them."""


@dataclass(frozen=True)
class GraphPass:
    """A pass with what must hold before it and after it.

    Attributes:
        change: Does the work, in place.
        requires: Checked before it.
        ensures: Checked after it.
    """

    change: Pass
    requires: tuple[Condition, ...] = ()
    ensures: tuple[Condition, ...] = ()

    def __call__(self, model: ir.Model) -> tuple[ir.Model, bool]:
        """Change the model, unchecked."""
        return self.change(model)


def graph_pass(
    *, requires: tuple[Condition, ...] = (), ensures: tuple[Condition, ...] = ()
) -> Callable[[Pass], GraphPass]:
    """Make a pass of a function, with its conditions."""
    return lambda change: GraphPass(change, requires, ensures)


def run_passes(model: ir.Model, passes: Iterable[Pass]) -> ir.Model:
    """Apply each pass once.

    The graph's ends keep their names, a node that is still there keeps its module.

    Raises:
        ExportError: A pass met or left a graph that its conditions forbid, lost an input or
            output, moved a node to another module, or left what ONNX's checker refuses; the
            text names the pass.
    """
    for change in passes:
        name = name_of(change)
        _check(model, getattr(change, "requires", ()), f"pass {name} cannot begin")
        ends, modules = _ends(model), _modules(model)
        model, changed = change(model)
        if _ends(model) != ends:
            raise ExportError(f"pass {name} changed the graph's inputs or outputs")
        if moved := _moved(modules, model):
            raise ExportError(f"pass {name} {moved}")
        _check(model, getattr(change, "ensures", ()), f"pass {name} did not do its work")
        log.debug("pass %s: %s", name, "changed" if changed else "nothing to do")
    try:
        onnx.checker.check_model(_without_weights(ir.to_proto(model)))
    except onnx.checker.ValidationError as error:
        first = str(error).strip().splitlines()[0]
        raise ExportError(f"the graph is not valid ONNX: {first}") from error
    return model


def name_of(change: Pass) -> str:
    """The function's name."""
    inner = change.change if isinstance(change, GraphPass) else change
    return str(getattr(inner, "__name__", type(inner).__name__))


def _check(model: ir.Model, conditions: Iterable[Condition], where: str) -> None:
    for condition in conditions:
        if wrong := condition(model):
            raise ExportError(f"{where}: {wrong}")


def _ends(model: ir.Model) -> tuple[list[str | None], list[str | None]]:
    graph = model.graph
    return [value.name for value in graph.inputs], [value.name for value in graph.outputs]


def _modules(model: ir.Model) -> dict[str, list[str]]:
    return {node.name: scopes_of(node) for node in model.graph if node.name}


def _moved(before: dict[str, list[str]], model: ir.Model) -> str:
    for name, scopes in _modules(model).items():
        if name in before and before[name] != scopes:
            was, now = (places[-1] if places else "" for places in (before[name], scopes))
            return f"moved node '{name}' from module '{was}' to '{now}'"
    return ""


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its weights as inputs; ``proto`` itself is changed."""
    graph = proto.graph
    small = []
    for tensor in graph.initializer:
        if len(tensor.raw_data) <= _SMALL_BYTES:
            small.append(tensor)
        else:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in small]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return proto
