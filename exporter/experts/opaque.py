"""Layers leave torch as one opaque op each; the module says its expert load besides.

torch.export cannot capture a loop over experts that were hit, and torch.onnx takes half a
minute for a static one of 64. So each layer's ``forward`` is replaced while the module is
exported; ``exporter.passes.expand_experts`` makes a graph of the op afterwards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from exporter.experts.spec import (
    Chosen,
    ExpertLayers,
    FoundLayer,
    Gaps,
    MoESpec,
    choice_gaps,
    expert_counts,
    route,
    top_k_lowest_index,
)
from exporter.forwards import replaced_forwards
from exporter.outputs import named_outputs
from runtime.manifest import LOAD_OUTPUT
from runtime.tensors import Array

DOMAIN = "twinport"
OP_TYPE = "MoE"
VERSION = 1


@contextmanager
def opaque_layers(module: nn.Module, found: ExpertLayers) -> Iterator[None]:
    """Until the block ends, ``module`` returns its outputs by name and ``expert_load``.

    ``expert_load`` is int32 ``[rows, layers, experts]``: the tokens of each row of the
    first input that each expert received.
    """
    loads: dict[str, torch.Tensor] = {}
    with replaced_forwards() as replace:
        for layer in found.layers:
            replace(layer.module, _opaque_forward(layer, loads))
        replace(module, _with_load(module, found, loads))
        yield


def _opaque_forward(layer: FoundLayer, loads: dict[str, torch.Tensor]) -> Callable[..., Any]:
    @functools.wraps(layer.module.forward)
    def forward(*args: Any, **kwargs: Any) -> Any:
        x = first_argument(args, kwargs)
        spec = layer.adapter(layer.module)
        chosen = route(spec, x.reshape(-1, spec.width))
        output, loads[layer.path] = _opaque(layer.path, spec, x, chosen)
        if spec.shared is not None:
            output = output + spec.shared(x)
        if not spec.returns_logits:
            return output
        return output, chosen.logits.reshape(*x.shape[:-1], spec.experts)

    return forward


def first_argument(args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.Tensor:
    """The tokens, however the layer was called."""
    first: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
    return first


def _opaque(
    path: str, spec: MoESpec, x: torch.Tensor, chosen: Chosen
) -> tuple[torch.Tensor, torch.Tensor]:
    routing = spec.routing
    outputs = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{OP_TYPE}",
        (x, chosen.scores, chosen.choice, *spec.tensors),
        {
            "experts": spec.experts,
            "k": routing.top_k,
            "activation": spec.activation,
            "weights": list(spec.weights),
            "stacked": int(spec.stacked),
            "normalise": routing.normalise,
            "epsilon": routing.epsilon,
            "scale": routing.scale,
            "score": routing.score,
            "layer": path,
        },
        dtypes=(x.dtype, torch.int32),
        shapes=(x.shape, (x.shape[0], spec.experts)),
        version=VERSION,
    )
    return outputs[0], outputs[1]


def _with_load(
    module: nn.Module, found: ExpertLayers, loads: dict[str, torch.Tensor]
) -> Callable[..., Any]:
    inner = module.forward

    @functools.wraps(inner)
    def forward(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        loads.clear()
        outputs = named_outputs(inner(*args, **kwargs))
        outputs[LOAD_OUTPUT] = _joined_load(found, loads, first_argument(args, kwargs))
        return outputs

    return forward


def _joined_load(
    found: ExpertLayers, loads: dict[str, torch.Tensor], first: torch.Tensor
) -> torch.Tensor:
    """``[rows, layers, experts]``; tokens that a layer got flattened go to their rows."""
    rows = first.shape[0]
    per_layer = [
        loads[layer.path].reshape(rows, -1, layer.spec.experts).sum(1) for layer in found.layers
    ]
    return torch.stack(per_layer, dim=1).to(torch.int32)


class RoutingTrace:
    """Notes, while a module runs, whom each layer chose and how clearly.

    False where there is no such layer. What was noted is of the last run.
    """

    def __init__(self, found: ExpertLayers) -> None:
        self._found = found
        self._loads: dict[str, torch.Tensor] = {}
        self._gaps: dict[str, Gaps] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Hook the layers until the block ends."""
        handles = [
            layer.module.register_forward_pre_hook(self._noting(layer), with_kwargs=True)
            for layer in self._found.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _noting(self, layer: FoundLayer) -> Callable[..., None]:
        def note(_module: nn.Module, args: Any, kwargs: Any) -> None:
            x = first_argument(args, kwargs)
            spec = layer.adapter(layer.module)
            choice = route(spec, x.reshape(-1, spec.width)).choice
            chosen = top_k_lowest_index(choice, spec.routing.top_k)
            self._loads[layer.path] = expert_counts(chosen, x.shape[0], spec.experts)
            self._gaps[layer.path] = choice_gaps(choice, spec.routing.top_k)

        return note

    def load(self, rows: int) -> Array:
        """int32 ``[rows, layers, experts]``: the tokens that each expert received."""
        per_layer = [
            _summed(self._loads[layer.path], rows, layer.spec.experts)
            for layer in self._found.layers
        ]
        return torch.stack(per_layer, dim=1).to(torch.int32).cpu().numpy()

    def margin(self, rows: int) -> Array:
        """``[rows]`` least gap over the layer's largest value, over all layers and tokens."""
        margin = torch.full((rows,), torch.inf, dtype=torch.float64)
        for layer in self._found.layers:
            gaps = self._gaps[layer.path]
            if gaps.gap.numel():
                gap = gaps.gap.reshape(rows, -1).amin(1).double().cpu()
                size = gaps.size.reshape(rows, -1).amax(1).double().cpu()
                clear = torch.where(size > 0, gap / size, torch.where(gap > 0, torch.inf, 0.0))
                margin = torch.minimum(margin, clear)
        return margin.numpy()


def _summed(load: torch.Tensor, rows: int, experts: int) -> torch.Tensor:
    """Loads of a layer's own rows, added up to the rows of the model's first input."""
    if not rows:
        return load.new_zeros((0, experts))
    return load.reshape(rows, -1, experts).sum(1)
