"""What an engine's own library says of its layers: as they were fused, where the engine loads.

The network that the builder was given is kept beside the engine and needs no GPU; this is
what the builder made of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from exporter.engine.layers import FILE_NAME as LAYERS_FILE
from exporter.engine.layers import EngineLayer, EngineNetwork, EngineTensor, read_network
from exporter.engine.view import view_of_network
from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.backends.plan import read_header
from runtime.errors import RepositoryError, TwinportError
from runtime.loading import backend_options
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import read_manifest

UNKNOWN = ""
_DTYPES = {
    "float": "float32", "fp32": "float32", "half": "float16", "fp16": "float16",
    "bfloat16": "bfloat16", "bf16": "bfloat16", "fp8": "float8_e4m3fn", "int64": "int64",
    "int32": "int32", "int8": "int8", "int4": "int4", "uint8": "uint8", "bool": "bool",
}  # fmt: skip
"""Words of ``DataType``, and those that stood in ``Format/Datatype`` before TensorRT 11."""
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def inspector_of(engine: Path, *, engine_code: bool = False) -> dict[str, Any]:
    """Load an engine and ask its inspector.

    Args:
        engine: The file.
        engine_code: Whether it may run the code that it brings.

    Raises:
        RepositoryError: The file is no sound engine, or its manifest none.
        BackendUnavailable: Its library or its GPU is not here.
        TwinportError: The library gives nothing that can be read.
    """
    beside = engine.with_name(MANIFEST_FILE)
    manifest = read_manifest(beside) if beside.is_file() else None
    flavour = read_header(engine).flavour
    options = backend_options(BackendOptions(engine_code=engine_code), manifest)
    with closing(open_backend(flavour.name, engine, options)) as backend:
        ask = getattr(backend, "information", None)
        if ask is None:
            raise TwinportError(f"the backend '{flavour.name}' has no inspector")
        return dict(ask())


def network_of_inspector(engine: Path, information: Mapping[str, Any]) -> EngineNetwork:
    """The fused layers, with the modules that each came from.

    Args:
        engine: The file beside it knows the modules, where it is there.
        information: From ``inspector_of``.

    Raises:
        RepositoryError: The information, or the file beside the engine, has another form.
    """
    beside = engine.with_name(LAYERS_FILE)
    return network_from_inspector(information, read_network(beside) if beside.is_file() else None)


def view_of_engine(engine: Path, network: EngineNetwork) -> bytes:
    """An ONNX file for the eye.

    Raises:
        RepositoryError: The file is no sound engine.
    """
    model = view_of_network(network, read_header(engine).flavour.name)
    return bytes(model.SerializeToString())


def network_from_inspector(
    information: Mapping[str, Any], built: EngineNetwork | None
) -> EngineNetwork:
    """Read the inspector's JSON: that of TensorRT 11, and what differs in 10's.

    Args:
        information: ``Layers`` are objects, or names alone where the engine was built to say
            no more.
        built: The network that was given to the builder, to find the modules by the nodes.

    Raises:
        RepositoryError: It has another form.
    """
    modules = {layer.node: layer for layer in built.layers if layer.node} if built else {}
    try:
        layers = tuple(_layer(item, modules) for item in information["Layers"])
        inputs, outputs = _ends(information, layers)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RepositoryError(
            f"the inspector's information has another form than TensorRT 10's or 11's: {error!r}"
        ) from error
    return EngineNetwork(inputs, layers, outputs)


def _layer(item: str | Mapping[str, Any], modules: Mapping[str, EngineLayer]) -> EngineLayer:
    if isinstance(item, str):
        return EngineLayer(item, "LAYER", (), ())
    nodes = _NODE.findall(str(item.get("Metadata", "")))
    sources = [modules[node] for node in nodes if node in modules]
    paths = list(dict.fromkeys(layer.module for layer in sources if layer.module is not None))
    classes = {layer.module_class for layer in sources}
    return EngineLayer(
        name=item["Name"],
        kind=item["LayerType"],
        inputs=tuple(tensor["Name"] for tensor in item.get("Inputs", ())),
        outputs=tuple(_tensor(tensor) for tensor in item.get("Outputs", ())),
        module=" + ".join(paths) if paths else None,
        module_class=classes.pop() if len(classes) == 1 else None,
        node=" + ".join(nodes) or None,
    )


def _tensor(item: Mapping[str, Any]) -> EngineTensor:
    said = item.get("DataType") or item.get("Format/Datatype") or item.get("Format") or ""
    words = re.findall(r"[a-z]+\d*", str(said).lower())
    dtype = next((_DTYPES[word] for word in words if word in _DTYPES), UNKNOWN)
    return EngineTensor(item["Name"], dtype, tuple(map(int, item.get("Dimensions", ()))))


def _ends(
    information: Mapping[str, Any], layers: Sequence[EngineLayer]
) -> tuple[tuple[EngineTensor, ...], tuple[str, ...]]:
    """The engine's inputs, and the names of its outputs."""
    if "I/O Tensors" in information:
        ends = information["I/O Tensors"]
        inputs = tuple(_tensor(item) for item in ends if item["IOMode"] == "Input")
        return inputs, tuple(item["Name"] for item in ends if item["IOMode"] == "Output")
    made = {tensor.name for layer in layers for tensor in layer.outputs}
    names = information.get("Bindings", ())
    given = tuple(EngineTensor(name, UNKNOWN, ()) for name in names if name not in made)
    return given, tuple(name for name in names if name in made)
