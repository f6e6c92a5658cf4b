"""The nodes that decide which experts a token goes to, and those of the experts themselves.

1. Everything that the load of the experts depends on decides: gates, what feeds them, and so
   the layers before.
2. Of these, the experts' own matrices may compute in less: where most of the weights are.
   Their noise reaches later gates, so that the proof must still show that routing holds.
3. What only moves or combines the experts' own values goes with them, so that casts stand at
   the edges of the experts and not between their operators.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from exporter.precision.typed import module_of
from runtime.manifest import LOAD_OUTPUT

_MATRICES = frozenset({"Gemm", "MatMul"})
_MOVES = frozenset({"Concat", "Gather", "Reshape", "Split", "Squeeze", "Transpose", "Unsqueeze"})
_COMBINES = _MOVES | {"Add", "Div", "Erf", "Gelu", "Mul", "Relu", "Sigmoid", "Tanh"}


def nodes_that_route(model: ir.Model) -> frozenset[str]:
    """Names of the nodes that must compute as the truth does; none without experts."""
    load = next((value for value in model.graph.outputs if value.name == LOAD_OUTPUT), None)
    if load is None:
        return frozenset()
    deciding = _depended_on([load])
    own = _experts_own(model)
    return frozenset(str(node.name) for node in deciding if node not in own)


def _depended_on(values: Iterable[ir.Value]) -> set[ir.Node]:
    """Every node before a value, of inner graphs' readers too."""
    found: set[ir.Node] = set()
    waiting = [node for value in values if (node := value.producer()) is not None]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        makers = (value.producer() for value in _read_by(node))
        waiting += [maker for maker in makers if maker is not None]
    return found


def _read_by(node: ir.Node) -> list[ir.Value]:
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            graph = attribute.as_graph()
            values += graph.outputs
            values += [value for inner in graph for value in _read_by(inner)]
    return values


def _experts_own(model: ir.Model) -> set[ir.Node]:
    """The experts' matrices and what stands between them."""
    built = [node for node in model.graph.all_nodes() if _is_built(node)]
    own = {node for node in built if node.op_type in _MATRICES}
    while True:
        more = {node for node in built if node not in own and _goes_with(node, own)}
        if not more:
            return own
        own |= more


def _is_built(node: ir.Node) -> bool:
    """Whether it was made when a layer of experts was expanded; such names tell it."""
    module = module_of(node)
    return bool(module) and str(node.name).startswith(f"{module}/")


def _goes_with(node: ir.Node, own: set[ir.Node]) -> bool:
    if node.op_type in _COMBINES:
        makers = [v.producer() for v in node.inputs if v is not None and _is_computed_float(v)]
        if makers and all(maker in own for maker in makers):
            return True
    if node.op_type in _MOVES:
        readers = [reader for value in node.outputs for reader in value.consumers()]
        ends = any(value.is_graph_output() for value in node.outputs)
        return bool(readers) and not ends and all(reader in own for reader in readers)
    return False


def _is_computed_float(value: ir.Value) -> bool:
    maker = value.producer()
    return value.dtype == ir.DataType.FLOAT and maker is not None and maker.op_type != "Constant"
