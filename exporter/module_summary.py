"""A module layer by layer: class, output shape, parameters, as one call meets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from exporter.graph import example_inputs
from exporter.source import Source
from runtime.errors import ExportError


@dataclass(frozen=True)
class Layer:
    """One leaf module at one call.

    Attributes:
        shapes: Of its outputs, with the example's sizes for the free axes.
        parameters: Its own; zero when it is called again.
        trainable: Of these, those that require a gradient.
    """

    name: str
    module_class: str
    shapes: tuple[tuple[int, ...], ...]
    parameters: int
    trainable: int


def layers_of(source: Source) -> tuple[Layer, ...]:
    """Run one example and note every leaf module in the order it is called.

    Raises:
        ExportError: The module fails on the example.
    """
    layers: list[Layer] = []
    counted: set[int] = set()
    handles = []
    for name, module in source.module.named_modules():
        own = list(module.parameters(recurse=False))
        if own or not list(module.children()):
            handles.append(module.register_forward_hook(_noting(name, layers, counted)))
    try:
        with torch.no_grad():
            source.module(**example_inputs(source))
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise ExportError(f"the module fails on an example: {first}; check --input") from error
    finally:
        for handle in handles:
            handle.remove()
    return tuple(layers)


def _noting(name: str, layers: list[Layer], counted: set[int]) -> Any:
    def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        fresh = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(id(parameter) for parameter in fresh)
        tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        layers.append(
            Layer(
                name or "(root)",
                type(module).__name__,
                tuple(tuple(tensor.shape) for tensor in tensors),
                sum(parameter.numel() for parameter in fresh),
                sum(parameter.numel() for parameter in fresh if parameter.requires_grad),
            )
        )

    return note
