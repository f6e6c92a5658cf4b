"""An engine's network as an ONNX graph for the eye: a node a layer, drawn by Netron.

Nothing runs it: its operators are TensorRT's layers, their weights left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import TensorProto, helper

from exporter.engine.layers import EngineLayer, EngineNetwork, EngineTensor
from exporter.engine.network import output_tensors
from runtime.tensors import format_shape

_OPSET = 1
_IR_VERSION = 10
_DTYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
    "float8_e4m3fn": TensorProto.FLOAT8E4M3FN,
    "float8_e8m0fnu": TensorProto.FLOAT8E8M0,
    "float4_e2m1fn": TensorProto.FLOAT4E2M1,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "int8": TensorProto.INT8,
    "int4": TensorProto.INT4,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}


def view_of_network(network: EngineNetwork, domain: str) -> onnx.ModelProto:
    """Draw a network.

    Args:
        network: What the builder was given.
        domain: Of the operators: the flavour's name.
    """
    values = [tensor for layer in network.layers for tensor in layer.outputs]
    graph = helper.make_graph(
        [_node(layer, domain) for layer in _in_order(network)],
        "layers of a TensorRT engine, without weights; not for running",
        [_value(tensor) for tensor in network.inputs],
        [_value(tensor) for tensor in output_tensors(network)],
        value_info=[_value(tensor) for tensor in values if tensor.name not in network.outputs],
    )
    return helper.make_model(
        graph,
        producer_name="twinport",
        opset_imports=[helper.make_opsetid(domain, _OPSET)],
        ir_version=_IR_VERSION,
    )


def _node(layer: EngineLayer, domain: str) -> onnx.NodeProto:
    said = {
        "module": layer.module,
        "class": layer.module_class,
        "node": layer.node,
        "shape": ", ".join(f"{item.dtype} {format_shape(item.shape)}" for item in layer.outputs),
    }
    return helper.make_node(
        # The builder's kinds are in capitals; those of a built engine are words already.
        layer.kind.title().replace("_", "") if layer.kind.isupper() else layer.kind,
        list(layer.inputs),
        [tensor.name for tensor in layer.outputs],
        name=layer.name,
        domain=domain,
        **{key: value for key, value in said.items() if value is not None},
    )


def _value(tensor: EngineTensor) -> onnx.ValueInfoProto:
    shape = [None if size < 0 else size for size in tensor.shape]
    dtype = _DTYPES[tensor.dtype] if tensor.dtype else TensorProto.UNDEFINED
    return helper.make_tensor_value_info(tensor.name, dtype, shape)


def _in_order(network: EngineNetwork) -> Sequence[EngineLayer]:
    """Each layer after those it uses, as ONNX wants it; what is in a loop stays where it is."""
    made = {tensor.name for layer in network.layers for tensor in layer.outputs}
    ready: set[str] = set()
    placed: list[EngineLayer] = []
    waiting = list(network.layers)
    while waiting:
        later: list[EngineLayer] = []
        for layer in waiting:
            if all(name in ready or name not in made for name in layer.inputs):
                placed.append(layer)
                ready.update(tensor.name for tensor in layer.outputs)
            else:
                later.append(layer)
        if len(later) == len(waiting):
            return [*placed, *later]
        waiting = later
    return placed
