"""Nodes, constants and re-laid weights that take an expert op's place in a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import convert_attributes

from exporter.experts.node import Weight
from runtime.tensors import Array

Attribute = str | int | float | ir.TensorProtocol | ir.Graph


class Names:
    """Names of values and nodes that are taken in a model."""

    def __init__(self, model: ir.Model) -> None:
        self._taken: set[str] = set(model.graph.initializers)
        for graph in model.graphs():
            self._taken.update(str(value.name) for value in graph.inputs)
            for node in graph:
                self._taken.add(str(node.name))
                self._taken.update(str(value.name) for value in node.outputs)

    def fresh(self, wanted: str) -> str:
        """``wanted``, or with a number where that is taken; taken from now on."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name


class Weights:
    """Initializers for experts' weights: the graph's own, or re-laid ones named after them.

    One weight in one layout is one initializer, also where two layers share it.
    """

    def __init__(self, graph: ir.Graph, names: Names) -> None:
        self.graph = graph
        self._names = names
        self._made: dict[tuple[tuple[tuple[int, str], ...], str], ir.Value] = {}

    def own(self, weight: Weight) -> ir.Value:
        """One expert's weight by itself; the graph's initializer where it is one already."""
        if not weight.part:
            return weight.source
        return self._initializer((weight,), weight.part, weight.name, lambda: weight.array)

    def stacked(self, weights: Sequence[Weight]) -> ir.Value:
        """All experts' weights along a new axis 0; the graph's own where it is stored so."""
        source = weights[0].source
        if _is_whole(weights):
            return source
        parts = "stacked" + weights[0].part.rpartition(".0")[2]
        return self.relaid(weights, parts, lambda: np.stack([item.array for item in weights]))

    def relaid(self, weights: Sequence[Weight], layout: str, make: Callable[[], Array]) -> ir.Value:
        """What ``make`` gives, under the first weight's source name and the layout's."""
        name = f"{weights[0].source.name}.{layout}"
        return self._initializer(weights, layout, name, make)

    def _initializer(
        self, weights: Sequence[Weight], layout: str, name: str, make: Callable[[], Array]
    ) -> ir.Value:
        key = tuple((id(item.source), item.part) for item in weights), layout
        if key not in self._made:
            name = self._names.fresh(name)
            tensor = ir.Tensor(np.ascontiguousarray(make()), name=name)
            value = ir.Value(
                name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self.graph.register_initializer(value)
            self._made[key] = value
        return self._made[key]


def _is_whole(weights: Sequence[Weight]) -> bool:
    source = weights[0].source
    stored = source.const_value is not None and source.const_value.shape
    return stored == (len(weights), *weights[0].array.shape) and all(
        item.source is source for item in weights
    )


class Builder:
    """Makes nodes whose names begin with the layer's and that keep its metadata."""

    def __init__(
        self,
        prefix: str,
        opset: int,
        metadata: Mapping[str, str],
        names: Names,
        weights: Weights,
        *,
        cut: bool = False,
    ) -> None:
        self.opset = opset
        self.weights = weights
        self._cut = cut
        self.nodes: list[ir.Node] = []
        self._prefix = prefix
        self._metadata = dict(metadata)
        self._names = names
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def inner(self) -> Builder:
        """A builder for a subgraph; it may use this one's values, not the other way round.

        What it builds cuts experts out of stacked weights, which another subgraph reads too:
        so they are stored once. ONNX Runtime cuts when it loads, not at each call.
        """
        return Builder(
            self._prefix, self.opset, self._metadata, self._names, self.weights, cut=True
        )

    def each(self, weights: Sequence[Weight]) -> list[ir.Value]:
        """One value an expert."""
        if not self._cut or len(weights) == 1:
            return [self.weights.own(item) for item in weights]
        stacked = self.weights.stacked(weights)
        count = len(weights)
        attributes: dict[str, Attribute] = {"axis": 0, "num_outputs": count}
        parts = self.ops("Split", stacked, outputs=count, attributes=attributes)
        return [self.op("Squeeze", part, self.ints(0)) for part in parts]

    def name(self, wanted: str) -> str:
        """A name of the layer's that nothing else has."""
        return self._names.fresh(f"{self._prefix}/{wanted}")

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        domain: str = "",
        attributes: Mapping[str, Attribute] | None = None,
    ) -> ir.Value:
        """Add a node of one output."""
        return self.ops(op_type, *inputs, outputs=1, domain=domain, attributes=attributes)[0]

    def ops(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        outputs: int,
        domain: str = "",
        attributes: Mapping[str, Attribute] | None = None,
    ) -> Sequence[ir.Value]:
        """Add a node of several outputs."""
        name = self.name(op_type)
        node = ir.Node(
            domain, op_type, inputs, convert_attributes(attributes or {}), num_outputs=outputs,
            name=name, metadata_props=dict(self._metadata),
        )  # fmt: skip
        for i, value in enumerate(node.outputs):
            value.name = self._names.fresh(f"{name}.{i}" if i else f"{name}.out")
        self.nodes.append(node)
        return node.outputs

    def ints(self, *numbers: int) -> ir.Value:
        """An int64 vector."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def constant(self, array: Array) -> ir.Value:
        """A constant; equal ones are one node."""
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            value = self.op("Constant", attributes={"value": ir.Tensor(array)})
            value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            self._constants[key] = value
        return self._constants[key]

    def drop_unused(self, wanted: Iterable[ir.Value]) -> None:
        """Take out the nodes that nothing wanted depends on."""
        kept = {id(value) for value in wanted}
        for node in reversed(self.nodes):
            if any(id(value) in kept or value.uses() for value in node.outputs):
                continue
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)
            self.nodes.remove(node)
