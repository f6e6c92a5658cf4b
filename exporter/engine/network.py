"""Read a parsed network: its layers with their modules, its ends against the manifest."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from exporter.engine.layers import EngineLayer, EngineNetwork, EngineTensor
from exporter.engine.origins import Module, Origins
from runtime.errors import ExportError
from runtime.tensors import TensorSpec, format_shape

if TYPE_CHECKING:
    import tensorrt as trt

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "E8M0": "float8_e8m0fnu",
    "FP4": "float4_e2m1fn",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "INT4": "int4",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's types in NumPy's words, or those of ml_dtypes where NumPy has none."""

_NODE = re.compile(r"\[ONNX Layer: (?P<name>[^\]]*)\]")


def network_from_parsed(network: trt.INetworkDefinition, origins: Origins) -> EngineNetwork:
    """Write a network down, each layer with the module that it comes from.

    Raises:
        ExportError: It has a tensor of a type that is not in the table.
    """
    layers = [_layer(network.get_layer(i), origins) for i in range(network.num_layers)]
    return EngineNetwork(
        inputs=tuple(_tensor(network.get_input(i)) for i in range(network.num_inputs)),
        layers=tuple(_with_helpers(layers)),
        outputs=tuple(network.get_output(i).name for i in range(network.num_outputs)),
    )


def check_ends(
    network: EngineNetwork, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec]
) -> None:
    """Refuse a network that takes or gives other tensors than the manifest says.

    Raises:
        ExportError: A name, a type or a shape differs; the text has both sides.
    """
    for kind, found, stated in (
        ("input", network.inputs, inputs), ("output", output_tensors(network), outputs),
    ):  # fmt: skip
        theirs = {tensor.name: f"{tensor.dtype} {format_shape(tensor.shape)}" for tensor in found}
        ours = {spec.name: f"{spec.dtype} {format_shape(spec.wire_shape)}" for spec in stated}
        for name in {**ours, **theirs}:
            if ours.get(name) != theirs.get(name):
                raise ExportError(
                    f"the parsed network has {kind} '{name}' as {theirs.get(name, 'none')}, the "
                    f"manifest has {ours.get(name, 'none')}; this graph cannot become an engine"
                )


def output_tensors(network: EngineNetwork) -> tuple[EngineTensor, ...]:
    """The network's outputs with their types and shapes."""
    made = {tensor.name: tensor for layer in network.layers for tensor in layer.outputs}
    given = {tensor.name: tensor for tensor in network.inputs}
    return tuple({**given, **made}[name] for name in network.outputs)


def _layer(layer: trt.ILayer, origins: Origins) -> EngineLayer:
    inputs = (layer.get_input(i) for i in range(layer.num_inputs))
    outputs = tuple(_tensor(layer.get_output(i)) for i in range(layer.num_outputs))
    found = _NODE.search(layer.metadata or "")
    node = found["name"] if found else None
    module = origins.module_of_node(node) if node else None
    for tensor in outputs:
        module = module or origins.module_of_value(tensor.name)
    return EngineLayer(
        name=layer.name,
        kind=layer.type.name,
        # An input that is left out is None, whatever the signature says.
        inputs=tuple(tensor.name for tensor in inputs if tensor is not None),
        outputs=outputs,
        module=module.path if module else None,
        module_class=module.class_name if module else None,
        node=node,
    )


def _with_helpers(layers: Sequence[EngineLayer]) -> list[EngineLayer]:
    """Layers without a module get that of the first layer that uses them, else of a producer.

    The parser adds constants and shuffles for the sake of the node that it is reading, and
    not always in the order of their use.
    """
    known = {
        layer.name: Module(layer.module, layer.module_class or "")
        for layer in layers if layer.module is not None
    }  # fmt: skip
    users: dict[str, list[str]] = {}
    makers = {tensor.name: layer.name for layer in layers for tensor in layer.outputs}
    for layer in layers:
        for name in layer.inputs:
            users.setdefault(name, []).append(layer.name)
    after = {
        layer.name: [user for tensor in layer.outputs for user in users.get(tensor.name, [])]
        for layer in layers
    }
    before = {
        layer.name: [makers[name] for name in layer.inputs if name in makers] for layer in layers
    }
    _spread(known, after)
    _spread(known, before)
    return [_placed(layer, known.get(layer.name)) for layer in layers]


def _spread(known: dict[str, Module], neighbours: Mapping[str, Sequence[str]]) -> None:
    """Give each layer the module of its first neighbour that has one, until nothing changes."""
    changed = True
    while changed:
        changed = False
        for name, others in neighbours.items():
            module = next((known[other] for other in others if other in known), None)
            if name not in known and module is not None:
                known[name], changed = module, True


def _placed(layer: EngineLayer, module: Module | None) -> EngineLayer:
    if module is None:
        return layer
    return dataclasses.replace(layer, module=module.path, module_class=module.class_name)


def _tensor(tensor: trt.ITensor) -> EngineTensor:
    word = tensor.dtype.name
    if word not in DTYPES:
        raise ExportError(f"tensor '{tensor.name}' has TensorRT's type {word}, not known here")
    return EngineTensor(tensor.name, DTYPES[word], _shape(tensor))


def _shape(tensor: trt.ITensor) -> tuple[int, ...]:
    try:
        return tuple(tensor.shape)
    except ValueError:  # the length of a shape of unknown rank is negative
        return ()
