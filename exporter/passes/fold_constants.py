"""What depends on constants alone is computed now, by onnxscript.

1. A node whose inputs are constants, or that asks for a size which is known, becomes an
   initializer named after its value; after the parameter, where it is one in another form
   (``fc.weight.folded``).
2. A result of more than ``LARGEST`` elements stays a node, unless what it is made of goes:
   a file does not grow by what a node computes.
3. All results together grow the file by ``GROWTH_BYTES`` at most; then nodes stay.
4. Constant nodes become initializers, those of subgraphs too; an output of the graph stays one.
5. Nodes of quantisation stay, and what depends on chance.
"""

from __future__ import annotations

import math

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript.optimizer import FOLDED_FROM_KEY
from onnxscript.optimizer._constant_folding import FoldConstantsPass

from exporter.passes.conditions import constants_are_initializers, is_ordered, names_differ
from exporter.passes.names import nodes_kept
from exporter.passes.run import graph_pass

LARGEST = 1024
"""Elements of a result that is stored although nothing is freed for it."""
GROWTH_BYTES = 2**20
_WIDEST = 8
"""Bytes of an element."""


@graph_pass(requires=(is_ordered,), ensures=(is_ordered, names_differ, constants_are_initializers))
def fold_constants(model: ir.Model) -> tuple[ir.Model, bool]:
    """Postcondition: no Constant node, no constant in another form, growth within bounds."""
    parameters = dict(model.graph.initializers)
    budget = _Budget()
    fold = FoldConstantsPass(
        shape_inference=True, input_size_limit=LARGEST, output_size_limit=LARGEST,
        should_fold=budget.grants,
    )  # fmt: skip
    with nodes_kept(model):
        changed = bool(fold(model).modified)
        for lift in (
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.LiftSubgraphInitializersToMainGraphPass(),
        ):
            changed = bool(lift(model).modified) or changed
    _name_after_parameters(model, parameters)
    return model, changed


class _Budget:
    """Says of a node whether its result may be stored; the library asks where it can be."""

    def __init__(self) -> None:
        self.left = GROWTH_BYTES

    def grants(self, node: ir.Node) -> bool | None:
        """``None`` leaves it to the library's own rules, which know kinds and sizes."""
        shape = node.outputs[0].shape
        dims = [dim for dim in shape if isinstance(dim, int)] if shape is not None else []
        size = math.prod(dims) if shape is not None and len(dims) == len(shape) else LARGEST
        if size > LARGEST:
            return None
        if size * _WIDEST > self.left:
            return False
        self.left -= size * _WIDEST
        return None


def _name_after_parameters(model: ir.Model, parameters: dict[str, ir.Value]) -> None:
    """A parameter in another form is found by its module's path, as the parameter itself is."""
    initializers = model.graph.initializers
    for name, value in list(initializers.items()):
        if name in parameters or value.const_value is None:
            continue
        source = _only_parameter(value, parameters)
        if source is None:
            continue
        wanted, number = f"{source}.folded", 1
        while wanted in initializers:
            number += 1
            wanted = f"{source}.folded_{number}"
        value.name = wanted
        value.const_value.name = wanted


def _only_parameter(value: ir.Value, parameters: dict[str, ir.Value]) -> str | None:
    """The one parameter whose elements these are."""
    sources = [name for name in value.meta.get(FOLDED_FROM_KEY, ()) if name in parameters]
    if len(sources) != 1 or value.const_value is None:
        return None
    stored = parameters[sources[0]].const_value
    same = stored is not None and stored.size == value.const_value.size
    return sources[0] if same and "." in sources[0] else None
