"""Give chosen operators a lower float type, with casts wherever two types meet.

The types are in the graph, so that whoever builds it, TensorRT's strongly typed networks
too, computes as it says. Nodes and values keep their names; a graph's ends stay float32.

1. A chosen node takes and gives the lower type wherever its schema allows it.
2. A constant that a chosen node reads is stored in the lower type; in both, where others read
   it as well.
3. One cast a value and direction, right behind the node that gives it.
4. A Cast to float32 that is chosen casts to the lower type instead.
5. What gives no floats and takes one (Shape, ArgMax, a Cast to integers) takes what comes.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from exporter.experts.builder import Names
from exporter.experts.replace import is_read
from exporter.passes.conditions import is_ordered, names_differ
from exporter.passes.run import Pass, graph_pass
from exporter.precision.kinds import FloatKind
from exporter.precision.slots import Slots, is_float, low_slots
from runtime.errors import ExportError
from runtime.tensors import Array

FLOAT = ir.DataType.FLOAT


def lower_floats(kind: FloatKind, chosen: Collection[str]) -> Pass:
    """A pass that lowers nodes.

    Args:
        kind: The lower type.
        chosen: Names of nodes; their values have types (``typed``).

    Returns:
        The pass. It raises ExportError where a constant does not fit the type.
    """

    @graph_pass(ensures=(is_ordered, names_differ))
    def lower_floats(model: ir.Model) -> tuple[ir.Model, bool]:
        """Postcondition: no node reads two float types where its schema wants one."""
        change = _Change(model, kind, frozenset(chosen))
        change.graph(model.graph)
        return model, change.lowered > 0

    return lower_floats


class _Change:
    """One run of the pass over a model."""

    def __init__(self, model: ir.Model, kind: FloatKind, chosen: frozenset[str]) -> None:
        self.lowered = 0
        self._kind = kind
        self._chosen = chosen
        self._opset = model.opset_imports.get("", 0)
        self._names = Names(model)
        self._cast: dict[tuple[int, ir.DataType], ir.Value] = {}
        self._stored: dict[int, ir.Value] = {}

    def graph(self, graph: ir.Graph) -> None:
        """Lower a graph and the graphs inside of its nodes."""
        constants = [node for node in graph if node.op_type == "Constant"]
        for node in list(graph):
            self._node(node, graph)
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    self.graph(attribute.as_graph())
        self._end(graph)
        _drop_unread(graph, constants)

    def _node(self, node: ir.Node, graph: ir.Graph) -> None:
        if str(node.name) in self._chosen:
            self._lower(node, graph)
        elif not is_free(node, self._opset, self._kind.dtype):
            for i, value in enumerate(node.inputs):
                if value is not None and value.dtype == self._kind.dtype:
                    node.replace_input_with(i, self._as(value, FLOAT, node))

    def _lower(self, node: ir.Node, graph: ir.Graph) -> None:
        slots = slots_of(node, self._opset, self._kind.dtype)
        self.lowered += 1
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            if i in slots.inputs:
                node.replace_input_with(i, self._low(value, node))
            elif value.dtype == self._kind.dtype and not self._takes(node, i):
                node.replace_input_with(i, self._as(value, FLOAT, node))
        if node.op_type == "Cast":
            node.attributes["to"] = ir.AttrInt64("to", int(self._kind.dtype))
        for i in slots.outputs:
            node.outputs[i].type = ir.TensorType(self._kind.dtype)

    def _takes(self, node: ir.Node, index: int) -> bool:
        """Whether a value that is low already may stay so."""
        value = node.inputs[index]
        assert value is not None
        before, value.type = value.type, ir.TensorType(FLOAT)
        slots = slots_of(node, self._opset, self._kind.dtype)
        value.type = before
        return index in slots.inputs

    def _low(self, value: ir.Value, node: ir.Node) -> ir.Value:
        array = constant_of(value)
        return self._as(value, self._kind.dtype, node) if array is None else self._store(
            value, array)  # fmt: skip

    def _store(self, value: ir.Value, array: Array) -> ir.Value:
        """A constant in the lower type; under its own name where it is an initializer."""
        if id(value) not in self._stored:
            name = self._names.fresh(f"{value.name}.{self._kind.name}")
            tensor = ir.Tensor(array.astype(self._kind.dtype.numpy()), name=name)
            stored = ir.Value(
                name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            _owner(value).register_initializer(stored)
            self._stored[id(value)] = stored
        return self._stored[id(value)]

    def _as(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node) -> ir.Value:
        """The value cast to a type."""
        if value.dtype == dtype:
            return value
        key = id(value), dtype
        if key not in self._cast:
            self._cast[key] = self._add_cast(value, dtype, reader)
        return self._cast[key]

    def _add_cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node | None) -> ir.Value:
        suffix = "fp32" if dtype == FLOAT else self._kind.name
        maker = value.producer()
        near = maker or reader
        cast = ir.node(
            "Cast", [value], attributes={"to": int(dtype)},
            name=self._names.fresh(f"{value.name}/Cast_{suffix}"),
            metadata_props=dict(near.metadata_props) if near is not None else None,
        )  # fmt: skip
        result = cast.outputs[0]
        result.name = self._names.fresh(f"{value.name}.{suffix}")
        result.type, result.shape = ir.TensorType(dtype), value.shape
        if maker is not None and maker.graph is not None:
            maker.graph.insert_after(maker, cast)
        else:
            graph = _owner(value)
            first = next(iter(graph), None)
            graph.insert_before(first, cast) if first is not None else graph.append(cast)
        return result

    def _end(self, graph: ir.Graph) -> None:
        """Outputs stay float32 under their names."""
        for i, value in enumerate(graph.outputs):
            if value.dtype != self._kind.dtype:
                continue
            name = str(value.name)
            value.name = self._names.fresh(f"{name}.{self._kind.name}")
            result = self._as(value, FLOAT, next(iter(graph)))
            result.name = name
            graph.outputs[i] = result


def slots_of(node: ir.Node, opset: int, dtype: ir.DataType) -> Slots:
    """``low_slots``, and of a Cast to float32 its output."""
    if node.op_type == "Cast" and node.domain == "":
        gives = frozenset({0}) if is_float(node.outputs[0]) else frozenset[int]()
        return Slots(frozenset(), gives)
    return low_slots(node, opset, dtype)


def is_free(node: ir.Node, opset: int, dtype: ir.DataType) -> bool:
    """Whether a node gives no floats and takes its one float input in either type."""
    if any(value.dtype in (FLOAT, dtype) for value in node.outputs):
        return False
    floats = [v for v in node.inputs if v is not None and v.dtype in (FLOAT, dtype)]
    if node.domain != "" or len(floats) != 1:
        return False
    before, floats[0].type = floats[0].type, ir.TensorType(FLOAT)
    slots = low_slots(node, opset, dtype)
    floats[0].type = before
    return bool(slots.inputs)


def constant_of(value: ir.Value) -> Array | None:
    """The numbers of an initializer or of a Constant node; none of anything else."""
    maker = value.producer()
    if maker is None:
        return None if value.const_value is None else value.const_value.numpy()
    if maker.op_type != "Constant" or maker.domain != "":
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _owner(value: ir.Value) -> ir.Graph:
    """The graph that holds a value."""
    maker = value.producer()
    graph = maker.graph if maker is not None else value.graph
    if not isinstance(graph, ir.Graph):
        raise ExportError(f"'{value.name}' belongs to no graph; this is a defect")
    return graph


def _drop_unread(graph: ir.Graph, constants: list[ir.Node]) -> None:
    """Constants of float32 that nothing reads any more."""
    for node in constants:
        if not any(is_read(value) for value in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if value.dtype == FLOAT and not is_read(value) and not value.is_graph_input():
            del graph.initializers[name]
