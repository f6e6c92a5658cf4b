"""ONNX Runtime's fused operator against the sorted form, ties included.

Both run on a small stand-in for the layer: its number of experts, k, activation, weights'
names and rule for the weights, with narrow random matrices. What the operator chooses does
not depend on their size.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir

from exporter.experts.expand import expand_node
from exporter.experts.node import DOMAIN, OP_TYPE, MoENode, read_node
from runtime.backends.factory import open_backend
from runtime.errors import ExportError
from runtime.tensors import Array

_TOKENS, _WIDTH, _HIDDEN = 64, 4, 8
_OPSET = 20
_TOLERANCE = 1e-4
"""Of the largest output; one expert in another's place is off by about 1."""

Signature = tuple[int, int, str, str, float, float, str, tuple[str, ...]]


def check_fused(moe: MoENode) -> None:
    """Compare outputs and loads of the two forms on scores that tie.

    Raises:
        ExportError: The operator cannot compute the layer, or computes another one.
    """
    difference = _difference(
        (
            moe.experts, moe.k, moe.activation, moe.normalise, moe.epsilon, moe.scale,
            moe.score, tuple(moe.weights),
        ),
        moe.layer,
    )  # fmt: skip
    if difference is not None:
        raise ExportError(
            f"layer '{moe.layer}' cannot use ONNX Runtime's MoE operator: {difference}; "
            "use --moe-form sorted"
        )


@functools.lru_cache(maxsize=64)
def _difference(signature: Signature, layer: str) -> str | None:
    arrays = _tied_inputs(signature)
    sorted_form, fused = (_run(form, signature, layer, arrays) for form in ("sorted", "fused"))
    if not np.array_equal(sorted_form["load"], fused["load"]):
        return "its load is not that of the sorted form"
    error = np.abs(fused["y"] - sorted_form["y"]).max()
    largest = np.abs(sorted_form["y"]).max()
    if not error <= _TOLERANCE * largest:
        return (
            f"on tied scores it is {error:.2g} off the sorted form, "
            f"whose largest output is {largest:.2g}"
        )
    return None


def _tied_inputs(signature: Signature) -> dict[str, Array]:
    """Scores of three values only, as positive as a softmax or sigmoid makes them."""
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 4, (_TOKENS, signature[0])) / 4
    x = rng.standard_normal((_TOKENS, _WIDTH))
    return {"x": x.astype(np.float32), "scores": scores.astype(np.float32)}


def _run(form: str, signature: Signature, layer: str, arrays: dict[str, Array]) -> dict[str, Array]:
    model = _stand_in(signature, layer)
    (node,) = list(model.graph)
    expand_node(model, read_node(node), form)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        ir.save(model, path)
        backend = open_backend("onnxruntime", path)
        try:
            return backend.infer(arrays)
        finally:
            backend.close()


def _stand_in(signature: Signature, layer: str) -> ir.Model:
    """A graph of one opaque node."""
    experts, k, activation, normalise, epsilon, scale, score, names = signature
    x = _input("x", _WIDTH)
    scores = _input("scores", experts)
    weights = [_random(name, experts, i) for i, name in enumerate(names)]
    node = ir.node(
        OP_TYPE, [x, scores, scores, *weights], domain=DOMAIN, num_outputs=2,
        attributes={
            "experts": experts, "k": k, "activation": activation, "normalise": normalise,
            "epsilon": epsilon, "scale": scale, "score": score, "weights": list(names),
            "stacked": 1, "layer": layer,
        },
    )  # fmt: skip
    y, load = node.outputs
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["T", _WIDTH])
    load.name, load.type = "load", ir.TensorType(ir.DataType.INT32)
    load.shape = ir.Shape(["T", experts])
    graph = ir.Graph(
        [x, scores], [y, load], nodes=[node], initializers=weights, name="layer",
        opset_imports={"": _OPSET, DOMAIN: 1},
    )  # fmt: skip
    return ir.Model(graph, ir_version=10)


def _input(name: str, size: int) -> ir.Value:
    return ir.val(name, dtype=ir.DataType.FLOAT, shape=["T", size])


def _random(name: str, experts: int, seed: int) -> ir.Value:
    shapes = {
        "up": (_HIDDEN, _WIDTH), "gate": (_HIDDEN, _WIDTH), "down": (_WIDTH, _HIDDEN),
        "up_bias": (_HIDDEN,), "gate_bias": (_HIDDEN,), "down_bias": (_WIDTH,),
    }  # fmt: skip
    rng = np.random.default_rng(seed)
    array = rng.standard_normal((experts, *shapes[name])).astype(np.float32)
    return ir.val(name, const_value=ir.Tensor(array, name=name))
