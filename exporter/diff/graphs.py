"""Nodes, shapes and weights of two graphs, by name and by module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, TypeProto, numpy_helper

from exporter.diff.record import Fact, NodeChanges, WeightChanges
from exporter.engine.origins import nodes_of
from exporter.layer_proof.owners import OwnedGraph
from runtime.tensors import Array

QUANTISED = ".int8"
"""What the name of a weight ends in once it is stored in eight bits (``exporter/precision``)."""
NOWHERE = "?"
"""The module where none is known."""


def operator_changes(a: onnx.ModelProto, b: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Nodes by operator, those in bodies of loops and branches included, where they differ."""
    counts = [Counter(_operator(node) for node in nodes_of(model.graph)) for model in (a, b)]
    return {
        kind: (counts[0][kind], counts[1][kind])
        for kind in sorted(set(counts[0]) | set(counts[1]))
        if counts[0][kind] != counts[1][kind]
    }


def node_changes(a: OwnedGraph, b: OwnedGraph) -> tuple[NodeChanges, ...]:
    """Nodes that are added, removed or changed, by module in graph order."""
    sides = [dict(_named_nodes(graph)) for graph in (a, b)]
    found: dict[str, tuple[list[str], list[str], list[str]]] = {}
    for name in dict.fromkeys((*sides[0], *sides[1])):
        one, other = sides[0].get(name), sides[1].get(name)
        if one is not None and other is not None and _content(one[1]) == _content(other[1]):
            continue
        place = 2 if one and other else 1 if one else 0
        known = [side for side in (other, one) if side is not None]
        module = next((path for path, _ in known if path != NOWHERE), NOWHERE)
        node = known[0][1]
        changes = found.setdefault(module, ([], [], []))
        kind = node.op_type if place < 2 or one is None else _kinds(one[1], node)
        changes[place].append(f"{name} ({kind})")
    return tuple(NodeChanges(module, *map(tuple, lists)) for module, lists in found.items())


def _named_nodes(graph: OwnedGraph) -> Iterator[tuple[str, tuple[str, NodeProto]]]:
    for position, node in enumerate(graph.nodes):
        owner = graph.owners[position]
        yield node.name or node.output[0], (NOWHERE if owner is None else owner, node)


def _kinds(one: NodeProto, other: NodeProto) -> str:
    same = one.op_type == other.op_type
    return one.op_type if same else f"{one.op_type} to {other.op_type}"


def _operator(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _content(node: NodeProto) -> bytes:
    """A node without what says nothing of its work."""
    bare = NodeProto()
    bare.CopyFrom(node)
    del bare.metadata_props[:]
    bare.doc_string = ""
    attributes = sorted(bare.attribute, key=lambda item: item.name)
    del bare.attribute[:]
    bare.attribute.extend(attributes)
    return bytes(bare.SerializeToString(deterministic=True))


def shape_changes(a: onnx.ModelProto, b: onnx.ModelProto) -> tuple[Fact, ...]:
    """Inputs and outputs that are added, removed or of another type; inner values of another."""
    changes: list[Fact] = []
    for kind in ("input", "output"):
        ends = [_types(getattr(model.graph, kind)) for model in (a, b)]
        for name in dict.fromkeys((*ends[0], *ends[1])):
            one, other = ends[0].get(name, "not there"), ends[1].get(name, "not there")
            if one != other:
                changes.append(Fact(f"{kind} {name}", one, other))
    inner = [_types(model.graph.value_info) for model in (a, b)]
    changes += [
        Fact(f"value {name}", kind, inner[1][name])
        for name, kind in inner[0].items()
        if inner[1].get(name, kind) != kind
    ]
    return tuple(changes)


def _types(values: object) -> dict[str, str]:
    return {item.name: _type(item.type) for item in values}  # type: ignore[attr-defined]


def _type(kind: TypeProto) -> str:
    if not kind.HasField("tensor_type"):
        return str(kind.WhichOneof("value"))
    tensor = kind.tensor_type
    name = TensorProto.DataType.Name(tensor.elem_type).lower()
    if not tensor.HasField("shape"):
        return name
    axes = (dim.dim_param or (str(dim.dim_value) if dim.HasField("dim_value") else "?")
            for dim in tensor.shape.dim)  # fmt: skip
    return f"{name}[{','.join(axes)}]"


def weight_changes(
    a: tuple[onnx.ModelProto, OwnedGraph], b: tuple[onnx.ModelProto, OwnedGraph]
) -> tuple[WeightChanges, ...]:
    """Weights of every module, in graph order; those of modules without any are left out.

    Quantised ones are compared as what they stand for, under the name that they had before.
    """
    sides = [_weights(model) for model, _ in (a, b)]
    owners = [_weight_owners(graph) for _, graph in (a, b)]
    modules: dict[str, list[str]] = {}
    for name in dict.fromkeys((*sides[0], *sides[1])):
        owner = owners[1].get(name) or owners[0].get(name) or _by_name(name)
        modules.setdefault(owner, []).append(name)
    return tuple(
        _changes_of(module, names, sides[0], sides[1]) for module, names in modules.items()
    )


def _weights(model: onnx.ModelProto) -> dict[str, TensorProto]:
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = dict(stored)
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or any(name not in stored for name in node.input):
            continue
        whole, scale, *zero = (numpy_helper.to_array(stored[name]) for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        shape = [-1 if scale.ndim and at == axis % whole.ndim else 1 for at in range(whole.ndim)]
        offset = zero[0].astype(np.float64).reshape(shape) if zero else 0.0
        array = (whole.astype(np.float64) - offset) * scale.astype(np.float64).reshape(shape)
        name = node.input[0].removesuffix(QUANTISED)
        for read in node.input[:2]:
            found.pop(read, None)
        found[name] = numpy_helper.from_array(array.astype(np.float32), name)
    return found


def _weight_owners(graph: OwnedGraph) -> dict[str, str]:
    """The module of the first node that reads a weight."""
    found: dict[str, str] = {}
    for position, owner in enumerate(graph.owners):
        if owner is not None:
            for name in graph.read_by([position]):
                found.setdefault(name, owner)
    return found


def _by_name(name: str) -> str:
    """``fc1.weight`` is of ``fc1``, as torch names parameters."""
    return name.rpartition(".")[0] or NOWHERE


def _changes_of(
    module: str, names: list[str], a: dict[str, TensorProto], b: dict[str, TensorProto]
) -> WeightChanges:
    tensors = equal = 0
    squares = own = largest = 0.0
    added, removed = [], []
    for name in names:
        if name not in a or name not in b or list(a[name].dims) != list(b[name].dims):
            removed += [name] if name in a else []
            added += [name] if name in b else []
            continue
        tensors += 1
        one, other = _array(a[name]), _array(b[name])
        if one is None or other is None or np.array_equal(one, other, equal_nan=True):
            equal += a[name] == b[name] or one is not None
            continue
        moved = np.abs(other - one)
        squares, own = squares + float(np.square(moved).sum()), own + float(np.square(one).sum())
        largest = max(largest, float(moved.max()))
    relative = (squares / own) ** 0.5 if own else float(squares > 0)
    return WeightChanges(module, tensors, equal, relative, largest, tuple(added), tuple(removed))


def _array(tensor: TensorProto) -> Array | None:
    """The numbers in float64; none of text."""
    array = numpy_helper.to_array(tensor)
    return None if array.dtype.kind in "OSU" else array.astype(np.float64)
