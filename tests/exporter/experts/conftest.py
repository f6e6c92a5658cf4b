"""Layers as opaque nodes in a graph, and the same in NumPy, float64, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

SCOPES = "pkg.torch.onnx.name_scopes"
CLASSES = "pkg.torch.onnx.class_hierarchy"


def _erf(x: Any) -> Any:
    import math

    return np.vectorize(math.erf, otypes=[np.float64])(x)


ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * (1 + _erf(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
}


@dataclass
class Layer:
    """One opaque node with random weights; ``stored`` are the initializers by name."""

    names: tuple[str, ...] = ("up", "up_bias", "down", "down_bias")
    experts: int = 4
    k: int = 2
    stacked: bool = False
    activation: str = "relu"
    normalise: str = "softmax"
    epsilon: float = 0.0
    scale: float = 1.0
    score: str = "logits"
    rank: int = 2
    own_scores: bool = False
    path: str = "blocks.0.moe"
    width: int = 5
    hidden: int = 6
    seed: int = 0
    arrays: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        d, h, e = self.width, self.hidden, self.experts
        shapes = {
            "up": (e, h, d), "gate": (e, h, d), "gate_up": (e, 2 * h, d), "down": (e, d, h),
            "up_bias": (e, h), "gate_bias": (e, h), "down_bias": (e, d),
        }  # fmt: skip
        for name in self.names:
            self.arrays[name] = rng.standard_normal(shapes[name]).astype(np.float32)

    def stored(self) -> dict[str, Any]:
        """Initializers in the order of the node's inputs."""
        if self.stacked:
            return {f"{self.path}.{name}": self.arrays[name] for name in self.names}
        return {
            f"{self.path}.experts.{i}.{name}": self.arrays[name][i]
            for i in range(self.experts)
            for name in self.names
        }

    def node(self, x: str = "x", y: str = "y", load: str = "load") -> Any:
        scores = "scores" if self.own_scores else "choice"
        node = helper.make_node(
            "MoE", [x, scores, "choice", *self.stored()], [y, load], domain="twinport",
            name=f"node_{y}", experts=self.experts, k=self.k, activation=self.activation,
            weights=list(self.names), stacked=int(self.stacked), normalise=self.normalise,
            epsilon=self.epsilon, scale=self.scale, score=self.score, layer=self.path,
        )  # fmt: skip
        node.metadata_props.add(key=SCOPES, value=f"['', '{self.path}', 'moe']")
        node.metadata_props.add(key=CLASSES, value="['Net', 'MoE', 'twinport.MoE']")
        return node

    def leading(self) -> list[str]:
        return ["T"] if self.rank == 2 else ["rows", "tokens"]

    def model(self, opset: int = 20, load: bool = True) -> ir.Model:
        info = helper.make_tensor_value_info
        x = info("x", TensorProto.FLOAT, [*self.leading(), self.width])
        flat = [info("choice", TensorProto.FLOAT, ["T", self.experts])]
        if self.own_scores:
            flat.append(info("scores", TensorProto.FLOAT, ["T", self.experts]))
        y = info("y", TensorProto.FLOAT, [*self.leading(), self.width])
        counts = info("load", TensorProto.INT32, [self.leading()[0], self.experts])
        return as_model([self.node()], [x, *flat], [y, counts] if load else [y], self.stored(),
                        opset)  # fmt: skip

    def inputs(self, leading: tuple[int, ...], seed: int = 1, tied: bool = False) -> Any:
        rng = np.random.default_rng(seed)
        tokens = int(np.prod(leading))
        x = rng.standard_normal((*leading, self.width))
        if tied:
            choice = rng.integers(0, 3, (tokens, self.experts))
        else:
            choice = rng.standard_normal((tokens, self.experts))
        arrays = {"x": x.astype(np.float32), "choice": choice.astype(np.float32)}
        if self.own_scores or self.score != "logits":
            scores = 1 / (1 + np.exp(-rng.standard_normal((tokens, self.experts))))
            arrays["scores" if self.own_scores else "choice"] = scores.astype(np.float32)
        return arrays

    def compute(self, arrays: Any) -> tuple[Any, Any]:
        """Outputs in float64 and the load, a loop over tokens."""
        x = arrays["x"].astype(np.float64)
        flat = x.reshape(-1, self.width)
        scores = arrays.get("scores", arrays["choice"]).astype(np.float64)
        y = np.zeros_like(flat)
        hits = np.zeros((len(flat), self.experts), dtype=np.int32)
        for t, choice in enumerate(arrays["choice"]):
            best = sorted(range(self.experts), key=lambda i, c=choice: (-c[i], i))[: self.k]
            for weight, i in zip(self._shares(scores[t, best]), best, strict=True):
                y[t] += weight * self._expert(i, flat[t])
                hits[t, i] += 1
        load = hits if self.rank == 2 else hits.reshape(*x.shape[:2], self.experts).sum(1)
        return y.reshape(x.shape), load

    def _shares(self, best: Any) -> Any:
        if self.normalise == "softmax":
            powers = np.exp(best - best.max())
            return self.scale * powers / powers.sum()
        if self.normalise == "sum":
            return self.scale * best / (best.sum() + self.epsilon)
        return self.scale * best

    def _expert(self, i: int, x: Any) -> Any:
        arrays = {name: array[i].astype(np.float64) for name, array in self.arrays.items()}
        if "gate_up" in arrays:
            arrays["gate"], arrays["up"] = np.split(arrays["gate_up"], 2)
        act = ACTIVATIONS[self.activation]
        up = arrays["up"] @ x + arrays.get("up_bias", 0)
        inside = act(up)
        if "gate" in arrays:
            inside = act(arrays["gate"] @ x + arrays.get("gate_bias", 0)) * up
        return arrays["down"] @ inside + arrays.get("down_bias", 0)


def as_model(nodes: Any, inputs: Any, outputs: Any, weights: Any, opset: int = 20) -> ir.Model:
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("twinport", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def run(model: ir.Model, arrays: Any) -> dict[str, Any]:
    """Check the graph and run it in ONNX Runtime."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in model.graph.outputs]
    return dict(zip(names, session.run(None, arrays), strict=True))


@pytest.fixture
def layer_of():
    """``layer_of(experts=8, ...)``: a layer, see ``Layer``."""
    return Layer


@pytest.fixture
def run_graph():
    return run


@pytest.fixture
def graph_of():
    return as_model
