"""Small graphs in text, typed, and ways to run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from exporter.layers import CLASSES, SCOPES
from exporter.precision.run import answers_of
from exporter.precision.typed import typed

HEAD = '<ir_version: 10, opset_import: ["" : 20]>'


@pytest.fixture(scope="session")
def graph_of() -> Callable[..., ir.Model]:
    """``graph_of('g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }', w=array)``.

    Nodes are called after their first output, and ``stem_h`` is of the module ``stem``.
    """

    def make(text: str, **weights: Any) -> ir.Model:
        proto = onnx.parser.parse_model(HEAD + text)
        for name, array in weights.items():
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        for node in proto.graph.node:
            node.name = f"node_{node.output[0]}"
            scopes = ["", node.output[0].partition("_")[0], node.output[0]]
            for key, value in ((SCOPES, scopes), (CLASSES, ["Net", "Part", node.op_type])):
                node.metadata_props.add(key=key, value=str(value))
        onnx.checker.check_model(proto)
        return typed(ir.from_proto(proto))

    return make


@pytest.fixture(scope="session")
def run_graph() -> Callable[..., dict[str, Any]]:
    """What a graph gives for one call, by output."""

    def run(model: ir.Model, **inputs: Any) -> dict[str, Any]:
        names = [str(value.name) for value in model.graph.outputs]
        return answers_of(model, [inputs], names)[0]

    return run


@pytest.fixture(scope="session")
def kinds_of() -> Callable[[ir.Model], list[str]]:
    """Operators of a graph in its order."""
    return lambda model: [node.op_type for node in model.graph]
