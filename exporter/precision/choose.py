"""Which nodes of a graph may compute in a lower float type, and why the others may not.

1. The user keeps a module.
2. The choice of experts depends on a node, and it is none of the experts' own: routing must
   be the truth's, and a choice that flips is no matter of noise.
3. A constant of the node is too large for the type, or a single number so small that it
   loses its bits: an epsilon that becomes 0 does harm on inputs that nobody measured. What
   small weights lose is noise, and the budget's matter.
4. The node's values come near the type's largest, on the inputs at hand.
5. ONNX has no such form of the operator.
6. The node prepares pictures: a place in a picture of thousands of pixels needs more bits, and
   the pictures at hand may all be small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from exporter.layers import classes_of
from exporter.precision.kinds import FloatKind
from exporter.precision.lower import constant_of, slots_of
from exporter.precision.routing import nodes_that_route
from exporter.precision.slots import is_float
from exporter.precision.typed import is_in, module_of
from exporter.preprocess.module import Preprocess
from runtime.manifest import KeptModule
from runtime.tensors import Array

NAMED = "kept by --keep"
ROUTES = "the choice of experts depends on it"
PIXELS = "places in a large picture need the bits of fp32"
_PREPROCESS = f"{Preprocess.__module__}.{Preprocess.__qualname__}"
HEADROOM = 4.0
"""Times the largest value seen that the type must be able to hold: other inputs come."""


@dataclass
class Choice:
    """The nodes that are lowered, and why each other one that gives floats is not.

    Attributes:
        chosen: By name, in the graph's order; the module of each.
        kept: Node to module and reason.
    """

    chosen: dict[str, str] = field(default_factory=dict)
    kept: dict[str, tuple[str, str]] = field(default_factory=dict)

    def keep(self, modules: Mapping[str, str]) -> Choice:
        """The same, with more modules kept, each for its reason."""
        kept = dict(self.kept)
        chosen: dict[str, str] = {}
        for node, module in self.chosen.items():
            if module in modules:
                kept[node] = module, modules[module]
            else:
                chosen[node] = module
        return Choice(chosen, kept)

    def modules(self) -> list[str]:
        """Modules with a node that is lowered."""
        return list(dict.fromkeys(self.chosen.values()))

    def record(self) -> tuple[KeptModule, ...]:
        """What stayed, by module and reason."""
        counts: dict[tuple[str, str], int] = {}
        for place in self.kept.values():
            counts[place] = counts.get(place, 0) + 1
        return tuple(
            KeptModule(module, count, reason) for (module, reason), count in counts.items()
        )


def choose_floats(
    model: ir.Model, kind: FloatKind, keep: Sequence[str], largest: Mapping[str, float]
) -> Choice:
    """Decide for every node that gives floats.

    Args:
        model: Typed.
        kind: The lower type.
        keep: Modules that the user keeps.
        largest: By value, the largest magnitude seen; what is not in it was not measured.
    """
    opset = model.opset_imports.get("", 0)
    routing = nodes_that_route(model)
    choice = Choice()
    for node in model.graph.all_nodes():
        if node.op_type == "Constant" or not any(map(is_float, node.outputs)):
            continue  # a constant goes with who reads it; what gives no floats has no precision
        reason = _why_kept(node, kind, opset, keep, routing, largest)
        if reason:
            choice.kept[str(node.name)] = module_of(node), reason
        else:
            choice.chosen[str(node.name)] = module_of(node)
    return choice


def _why_kept(
    node: ir.Node,
    kind: FloatKind,
    opset: int,
    keep: Sequence[str],
    routing: frozenset[str],
    largest: Mapping[str, float],
) -> str:
    if is_in(node, keep):
        return NAMED
    if str(node.name) in routing:
        return ROUTES
    if _PREPROCESS in classes_of(node):
        return PIXELS
    slots = slots_of(node, opset, kind.dtype)
    if not slots.outputs:
        return f"ONNX has no {kind.name} {node.op_type}"
    values = [node.inputs[i] for i in slots.inputs]
    for value in values:
        array = None if value is None else constant_of(value)
        if value is not None and array is not None and (lost := what_is_lost(array, kind)):
            return f"{kind.name} cannot hold its constant '{value.name}': {lost}"
    names = [str(value.name) for value in (*values, *node.outputs) if value is not None]
    return _too_large({name: largest[name] for name in names if name in largest}, kind)


def _too_large(largest: Mapping[str, float], kind: FloatKind) -> str:
    for name, size in largest.items():
        if not size * HEADROOM <= kind.largest:
            return f"'{name}' reaches {size:.3g}, {kind.name} ends at {kind.largest:.5g}"
    return ""


def what_is_lost(array: Array, kind: FloatKind) -> str:
    """What a constant loses in the type beyond rounding; empty where nothing."""
    finite = array[np.isfinite(array)].astype(np.float64) if array.dtype == np.float32 else array
    if array.dtype != np.float32 or finite.size == 0:
        return ""
    size = float(np.abs(finite).max())
    if size > kind.largest:
        return f"it reaches {size:.3g}"
    if array.size == 1 and 0 < size < kind.smallest:
        return f"of {size:.2g} few bits are left below {kind.smallest:.2g}"
    return ""
