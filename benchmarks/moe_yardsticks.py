"""One layer of experts written by hand in three ONNX forms, and as a loop torch can export.

Each graph is what someone who knows ONNX Runtime would write for this layer alone: gate,
top-2 softmax, Linear-ReLU-Linear experts; outputs are the layer's output and gate logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from models.moe import MoELayer

OPSET = 20


class Graph:
    """A graph under construction; constants are initializers."""

    def __init__(self, layer: MoELayer) -> None:
        self.layer = layer
        self.weights = {name: value.numpy() for name, value in layer.state_dict().items()}
        self.k, self.experts = layer.top_k, len(layer.experts)
        self.width = layer.gate.in_features
        self._nodes: list[Any] = []
        self._stored: dict[str, Any] = {}

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; gives the name of its output, or all names where it has several."""
        names = [f"v{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names[0] if outputs == 1 else names

    def ints(self, *numbers: int) -> str:
        """An int64 vector."""
        return self.store("ints_" + "_".join(map(str, numbers)), np.array(numbers))

    def store(self, name: str, array: Any) -> str:
        """Keep an initializer."""
        self._stored[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def linear(self, x: str, name: str) -> str:
        """``torch.nn.Linear`` of the layer by its name."""
        matrix, bias = (
            self.store(f"{name}.{kind}", self.weights[f"{name}.{kind}"])
            for kind in ("weight", "bias")
        )
        return self.add("Gemm", x, matrix, bias, transB=1)

    def expert(self, x: str, index: int) -> str:
        """One expert on its own tokens."""
        hidden = self.add("Relu", self.linear(x, f"experts.{index}.fc1"))
        return self.linear(hidden, f"experts.{index}.fc2")

    def chosen(self) -> tuple[str, str, str]:
        """Gate logits, weights and experts, flat."""
        logits = self.linear("x", "gate")
        best, index = self.add("TopK", logits, self.ints(self.k), outputs=2)
        return logits, self.add("Softmax", best), self.add("Reshape", index, self.ints(-1))

    def weighted(self, joined: str, places: str, weights: str) -> str:
        """Expert outputs back in the tokens' order, and their weighted sum."""
        back = self.add("Gather", joined, places, axis=0)
        back = self.add("Reshape", back, self.ints(-1, self.k, self.width))
        product = self.add("Mul", back, self.add("Unsqueeze", weights, self.ints(2)))
        return str(self.add("ReduceSum", product, self.ints(1), keepdims=0))

    def model(self, y: str, logits: str) -> ModelProto:
        """The finished model with outputs ``y`` and ``logits``."""
        info = helper.make_tensor_value_info
        self._nodes.append(helper.make_node("Identity", [y], ["y"]))
        self._nodes.append(helper.make_node("Identity", [logits], ["logits"]))
        graph = helper.make_graph(
            self._nodes, "moe", [info("x", TensorProto.FLOAT, ["T", self.width])],
            [info("y", TensorProto.FLOAT, ["T", self.width]),
             info("logits", TensorProto.FLOAT, ["T", self.experts])],
            list(self._stored.values()),
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def by_sort(layer: MoELayer) -> ModelProto:
    """One sort by expert, Split, a Gemm pair an expert, one Gather back."""
    graph = Graph(layer)
    logits, weights, flat = graph.chosen()
    size = graph.add("Shape", flat)
    _, order = graph.add("TopK", flat, size, outputs=2, axis=0, largest=0)
    _, places = graph.add("TopK", order, size, outputs=2, axis=0, largest=0)
    experts = graph.store("experts", np.arange(graph.experts))
    hits = graph.add("Equal", graph.add("Unsqueeze", flat, graph.ints(1)), experts)
    hits = graph.add("Cast", hits, to=TensorProto.INT64)
    counts = graph.add("ReduceSum", hits, graph.ints(0), keepdims=0)
    tokens = graph.add("Div", order, graph.store("k", np.array(graph.k)))
    grouped = graph.add("Gather", "x", tokens, axis=0)
    pieces = graph.add("Split", grouped, counts, outputs=graph.experts, axis=0)
    outputs = [graph.expert(piece, i) for i, piece in enumerate(pieces)]
    joined = graph.add("Concat", *outputs, axis=0)
    return graph.model(graph.weighted(joined, places, weights), logits)


def by_nonzero(layer: MoELayer) -> ModelProto:
    """A NonZero an expert finds its tokens; one Gather back."""
    graph = Graph(layer)
    logits, weights, flat = graph.chosen()
    outputs, found = [], []
    for i in range(graph.experts):
        hit = graph.add("Equal", flat, graph.store(f"expert_{i}", np.array(i)))
        places = graph.add("Squeeze", graph.add("NonZero", hit), graph.ints(0))
        tokens = graph.add("Div", places, graph.store("k", np.array(graph.k)))
        outputs.append(graph.expert(graph.add("Gather", "x", tokens, axis=0), i))
        found.append(places)
    joined, order = (graph.add("Concat", *parts, axis=0) for parts in (outputs, found))
    size = graph.add("Shape", order)
    _, places = graph.add("TopK", order, size, outputs=2, axis=0, largest=0)
    return graph.model(graph.weighted(joined, places, weights), logits)


def by_operator(layer: MoELayer) -> ModelProto:
    """ONNX Runtime's MoE operator on the gate logits themselves."""
    graph = Graph(layer)
    logits = graph.linear("x", "gate")
    stacked = [
        graph.store(
            f"{part}.{kind}",
            np.stack([graph.weights[f"experts.{i}.{part}.{kind}"] for i in range(graph.experts)]),
        )
        for part in ("fc1", "fc2")
        for kind in ("weight", "bias")
    ]
    y = graph.add(
        "MoE", "x", logits, *stacked, domain="com.microsoft", k=graph.k,
        activation_type="relu", normalize_routing_weights=1,
    )  # fmt: skip
    return graph.model(y, logits)


YARDSTICKS: Mapping[str, Callable[[MoELayer], ModelProto]] = {
    "sorted": by_sort,
    "nonzero": by_nonzero,
    "fused": by_operator,
}


class StaticLoop(torch.nn.Module):
    """The same layer as torch's own exporter takes it: every expert, hit or not, in a row."""

    def __init__(self, layer: MoELayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``[tokens, width]`` to the same, and gate logits."""
        logits = self.layer.gate(x)
        best, chosen = torch.topk(logits, self.layer.top_k)  # it cannot export a stable sort
        weight = best.softmax(-1)
        output = torch.zeros_like(x)
        for index, expert in enumerate(self.layer.experts):
            token, place = torch.nonzero(chosen == index, as_tuple=True)
            answer = expert(x[token]) * weight[token, place].unsqueeze(-1)
            output = output.index_put((token,), answer, accumulate=True)
        return output, logits
