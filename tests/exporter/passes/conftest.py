"""Small graphs as texts of ONNX, and how they are run."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from exporter.layers import CLASSES, SCOPES


@pytest.fixture(scope="session")
def model_of():
    """A model from ONNX's own text form; every node is in the module that ``modules`` says."""

    def model_of(text, modules=None, **initializers):
        proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 20]> {text}')
        for i, node in enumerate(proto.graph.node):
            node.name = node.name or f"node_{node.output[0] or i}"
            module = (modules or {}).get(node.output[0], "")
            node.metadata_props.add(key=SCOPES, value=repr(["", module, node.output[0]]))
            node.metadata_props.add(key=CLASSES, value=repr(["Net", f"pkg.{module}", "op"]))
        for name, array in initializers.items():
            tensor = onnx.numpy_helper.from_array(np.asarray(array), name.replace("__", "."))
            proto.graph.initializer.append(tensor)
        for node in proto.graph.node:
            node.input[:] = [name.replace("__", ".") for name in node.input]
        return ir.from_proto(proto)

    return model_of


@pytest.fixture(scope="session")
def answers():
    """What ONNX Runtime makes of a model, unoptimised."""

    def answers(model, **arrays):
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        data = ir.to_proto(model).SerializeToString()
        session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return session.run(None, arrays)

    return answers
