"""Read an opaque ``twinport::MoE`` node of a graph: its routing and every expert's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from runtime.errors import ExportError
from runtime.tensors import Array

DOMAIN = "twinport"
OP_TYPE = "MoE"
FIRST_WEIGHT = 3
"""Inputs before it: the tokens, the scores, the values that the top-k is taken over."""

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
NORMALISE = ("softmax", "sum", "none")
_NAMES = frozenset({"up", "up_bias", "down", "down_bias", "gate", "gate_bias", "gate_up"})


@dataclass(frozen=True, eq=False)
class Weight:
    """One matrix or bias of one expert.

    Attributes:
        array: The values; a view where it is a part of the initializer.
        source: The graph's initializer that holds it.
        part: Which part of ``source`` it is (``.3``, ``.3.gate``); empty where it is all of it.
    """

    array: Array
    source: ir.Value
    part: str = ""

    @property
    def name(self) -> str:
        """Its name as an initializer of its own."""
        return f"{self.source.name}{self.part}"


@dataclass(frozen=True, eq=False)
class MoENode:
    """A layer as the graph holds it; the contract of the opaque op, checked.

    Attributes:
        node: The opaque node.
        x: Tokens, ``[tokens, width]`` or ``[rows, tokens, width]``.
        scores: ``[T, experts]``; the weights of the chosen experts are made of them.
        choice: ``[T, experts]``; the top-k is taken over them.
        rank: Of ``x``.
        width: Features of a token.
        hidden: Features inside an expert.
        weights: By name (``up``, ``up_bias``, ``down``, ``down_bias``, ``gate``,
            ``gate_bias``), one for each expert; a matrix is ``[out, in]``. A stored
            ``gate_up`` appears as its two halves.
    """

    node: ir.Node
    x: ir.Value
    scores: ir.Value
    choice: ir.Value
    rank: int
    width: int
    hidden: int
    experts: int
    k: int
    activation: str
    normalise: str
    epsilon: float
    scale: float
    score: str
    layer: str
    weights: Mapping[str, tuple[Weight, ...]]

    @property
    def gated(self) -> bool:
        """Whether an expert is ``down(act(gate(x)) * up(x))``."""
        return "gate" in self.weights

    @property
    def weight_bytes(self) -> int:
        """Size of all experts' weights."""
        return sum(item.array.nbytes for items in self.weights.values() for item in items)


def moe_nodes(model: ir.Model) -> list[ir.Node]:
    """The opaque nodes of a model in the order of its graph."""
    return [
        node
        for node in model.graph.all_nodes()
        if node.domain == DOMAIN and node.op_type == OP_TYPE
    ]


def read_node(node: ir.Node) -> MoENode:
    """Read an opaque node.

    Raises:
        ExportError: It is not as the contract has it; the text names the layer and the cure.
    """
    layer = node.attributes.get_string("layer", node.name or "?")
    experts, k = node.attributes.get_int("experts"), node.attributes.get_int("k")
    if experts is None or k is None or not 1 <= k <= experts:
        raise ExportError(
            f"layer '{layer}' chooses {k} of {experts} experts; wanted at least 1 and at most all"
        )
    x, scores, choice = (_present(node, i, layer) for i in range(FIRST_WEIGHT))
    if x.shape is None or len(x.shape) not in (2, 3):
        raise ExportError(
            f"layer '{layer}' takes tokens of shape {x.shape}; "
            "wanted [tokens, width] or [rows, tokens, width]"
        )
    weights = _weights(node, layer, experts)
    width, hidden = _sizes(weights, layer)
    return MoENode(
        node=node, x=x, scores=scores, choice=choice, rank=len(x.shape), width=width,
        hidden=hidden, experts=experts, k=k,
        activation=_one_of(node, "activation", ACTIVATIONS, layer),
        normalise=_one_of(node, "normalise", NORMALISE, layer),
        epsilon=node.attributes.get_float("epsilon", 0.0),
        scale=node.attributes.get_float("scale", 1.0),
        score=node.attributes.get_string("score", "logits"),
        layer=str(layer), weights=weights,
    )  # fmt: skip


def _present(node: ir.Node, index: int, layer: str | None) -> ir.Value:
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise ExportError(f"the expert op of layer '{layer}' lacks its input {index}")
    return value


def _one_of(node: ir.Node, attribute: str, known: Sequence[str], layer: str | None) -> str:
    text = node.attributes.get_string(attribute, "")
    if text not in known:
        raise ExportError(
            f"layer '{layer}' has {attribute} '{text}'; wanted one of {', '.join(known)}"
        )
    return str(text)


def _weights(node: ir.Node, layer: str | None, experts: int) -> dict[str, tuple[Weight, ...]]:
    names = list(node.attributes.get_strings("weights", ()))
    stacked = bool(node.attributes.get_int("stacked", 0))
    values = list(node.inputs[FIRST_WEIGHT:])
    wanted = len(names) if stacked else len(names) * experts
    if not _NAMES.issuperset(names) or len(values) != wanted:
        raise ExportError(
            f"layer '{layer}' gives {len(values)} weights for {experts} experts of "
            f"{', '.join(names)}; wanted {wanted}, of {', '.join(sorted(_NAMES))}"
        )
    found: dict[str, list[Weight]] = {}
    for i, value in enumerate(values):
        array = _constant(value, layer)
        name = names[i % len(names)]
        if stacked and len(array) != experts:
            raise ExportError(
                f"'{name}' of layer '{layer}' has {len(array)} parts for {experts} experts"
            )
        assert value is not None
        parts = enumerate(array) if stacked else [(None, array)]
        for expert, part in parts:
            _add(found, name, Weight(part, value, "" if expert is None else f".{expert}"))
    return {name: tuple(items) for name, items in found.items()}


def _constant(value: ir.Value | None, layer: str | None) -> Array:
    if value is None or value.const_value is None:
        name = value.name if value is not None else ""
        raise ExportError(
            f"the expert weight '{name}' of layer '{layer}' is computed in the graph; "
            "wanted a parameter of the module"
        )
    array = value.const_value.numpy()
    if array.dtype != np.float32:
        raise ExportError(
            f"the expert weight '{value.name}' of layer '{layer}' is {array.dtype}; wanted float32"
        )
    return array


def _add(found: dict[str, list[Weight]], name: str, weight: Weight) -> None:
    if name != "gate_up":
        found.setdefault(name, []).append(weight)
        return
    half = len(weight.array) // 2
    for own, array in (("gate", weight.array[:half]), ("up", weight.array[half:])):
        part = Weight(array, weight.source, f"{weight.part}.{own}")
        found.setdefault(own, []).append(part)


def _sizes(weights: Mapping[str, Sequence[Weight]], layer: str | None) -> tuple[int, int]:
    """Width and hidden size, the same in every expert."""
    if not {"up", "down"} <= weights.keys():
        raise ExportError(f"layer '{layer}' has {', '.join(weights)}; wanted up and down")
    hidden, width = weights["up"][0].array.shape
    shapes = {
        "up": (hidden, width), "gate": (hidden, width), "down": (width, hidden),
        "up_bias": (hidden,), "gate_bias": (hidden,), "down_bias": (width,),
    }  # fmt: skip
    for name, items in weights.items():
        for item in items:
            if item.array.shape != shapes[name]:
                raise ExportError(
                    f"'{item.name}' of layer '{layer}' has shape {list(item.array.shape)}; "
                    f"wanted {list(shapes[name])}"
                )
    return width, hidden
