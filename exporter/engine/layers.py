"""The layers of a built network, kept beside the engine: what the plan itself cannot show.

A plan can be opened only where its library, its driver and its GPU are. What the builder was
given, layer by layer and with the torch module of each, is written down when it is built.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import RepositoryError
from runtime.json_records import record_from_data

FILE_NAME = "layers.json"


@dataclass(frozen=True)
class EngineTensor:
    """What a layer gives.

    Attributes:
        name: As in the ONNX graph, where it comes from there.
        dtype: In NumPy's words; ``bfloat16`` and such where NumPy has none, empty where it is
            not known.
        shape: -1 where the size is known at run time only.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class EngineLayer:
    """One layer.

    Attributes:
        name: TensorRT's, unlike any other in the network.
        kind: TensorRT's word (``CONVOLUTION``).
        inputs: Names of tensors.
        outputs: What it gives.
        module: Path of the torch module in the module tree; empty for the root, none where
            it is not known. What the parser added goes with the layer that it is for.
        module_class: Of that module.
        node: The ONNX node that it was parsed from; none where the parser added it.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[EngineTensor, ...]
    module: str | None = None
    module_class: str | None = None
    node: str | None = None


@dataclass(frozen=True)
class EngineNetwork:
    """The whole network.

    Attributes:
        inputs: Of the network.
        layers: In the order of the network.
        outputs: Names of the network's outputs.
    """

    inputs: tuple[EngineTensor, ...]
    layers: tuple[EngineLayer, ...]
    outputs: tuple[str, ...]


def network_to_text(network: EngineNetwork) -> str:
    """JSON with a last newline."""
    return json.dumps(dataclasses.asdict(network), indent=1) + "\n"


def read_network(path: Path) -> EngineNetwork:
    """Read a file back.

    Raises:
        RepositoryError: It is missing or is not such a file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise RepositoryError(f"{path} holds a {type(data).__name__}, wanted an object")
    return record_from_data(EngineNetwork, data, str(path))
