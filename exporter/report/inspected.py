"""An engine's layers as the library's inspector tells them, where the engine is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InspectedLayer:
    """One layer after the builder's own fusions.

    Attributes:
        kind: Empty where the engine was built without details; so are those below.
        outputs: Name, type and sizes of each.
        tactic: What computes it.
        origin: The nodes of the graph that it stands for.
    """

    name: str
    kind: str
    outputs: tuple[str, ...]
    tactic: str
    origin: str


def layers_from_information(information: Mapping[str, Any]) -> tuple[InspectedLayer, ...]:
    """Read ``get_engine_information`` in its JSON form (TensorRT, "Engine Inspector").

    An engine built with little verbosity gives names alone; what is of another form than
    documented is left out.
    """
    layers = information.get("Layers")
    if not isinstance(layers, list):
        return ()
    return tuple(_layer(item) for item in layers if isinstance(item, (str, dict)))


def _layer(item: str | dict[str, Any]) -> InspectedLayer:
    if isinstance(item, str):
        return InspectedLayer(item, "", (), "", "")
    outputs = item.get("Outputs")
    tensors = outputs if isinstance(outputs, list) else []
    return InspectedLayer(
        name=str(item.get("Name", "")),
        kind=str(item.get("LayerType", "")),
        outputs=tuple(_tensor(tensor) for tensor in tensors),
        tactic=str(item.get("TacticName", "")),
        origin=str(item.get("Metadata", "")),
    )


def _tensor(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    parts = (item.get("Name"), item.get("Dimensions"), item.get("Format/Datatype"))
    return " ".join(str(part) for part in parts if part is not None)
