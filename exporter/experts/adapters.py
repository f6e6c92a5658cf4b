"""How a module says that it is a mixture-of-experts layer: one adapter for each kind.

An adapter is a function from the module to its ``MoESpec``, registered for a class::

    @moe_adapter(MyLayer)
    def _(layer: MyLayer) -> MoESpec: ...

Classes may be named by text (``package.module.Class`` or the class's bare name), so that
knowing a library's layer does not mean importing the library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import torch
from torch import nn

from exporter.experts.spec import Activation, ExpertLayers, FoundLayer, MoESpec, Routing
from runtime.errors import ExportError

Adapter = Callable[[Any], MoESpec]
Registered = TypeVar("Registered", bound=Adapter)

_BY_CLASS: dict[type[nn.Module], Adapter] = {}
_BY_NAME: dict[str, Adapter] = {}


def moe_adapter(*kinds: type[nn.Module] | str) -> Callable[[Registered], Registered]:
    """Register an adapter for classes, or for their names."""

    def register(adapter: Registered) -> Registered:
        for kind in kinds:
            if isinstance(kind, str):
                _BY_NAME[kind] = adapter
            else:
                _BY_CLASS[kind] = adapter
        return adapter

    return register


def adapter_for(module: nn.Module) -> Adapter | None:
    """The adapter of a module's class or of the nearest base that has one."""
    for kind in type(module).__mro__:
        adapter = (
            _BY_CLASS.get(kind)
            or _BY_NAME.get(f"{kind.__module__}.{kind.__qualname__}")
            or _BY_NAME.get(kind.__name__)
        )
        if adapter is not None:
            return adapter
    return _loop_layer if _looks_like_the_loop(module) else None


def find_layers(module: nn.Module) -> ExpertLayers:
    """All layers that an adapter knows; none inside another one.

    Raises:
        ExportError: An adapter cannot read its module; the text names the layer.
    """
    found = _walk("", module)
    return ExpertLayers(tuple(found))


def _walk(path: str, module: nn.Module) -> Iterator[FoundLayer]:
    adapter = adapter_for(module)
    if adapter is not None:
        yield FoundLayer(path, module, _read(path, module, adapter), adapter)
        return
    for name, child in module.named_children():
        yield from _walk(f"{path}.{name}" if path else name, child)


def _read(path: str, module: nn.Module, adapter: Adapter) -> MoESpec:
    try:
        return adapter(module)
    except (AttributeError, KeyError, TypeError, ExportError) as error:
        raise ExportError(
            f"the adapter of {type(module).__name__} cannot read layer '{path}': {error}; "
            "register one for this class with @moe_adapter"
        ) from error


@moe_adapter("models.moe.MoELayer")
def _ours(layer: Any) -> MoESpec:
    return _spec_of_linear_experts(layer, layer.top_k, [(e.fc1, e.fc2) for e in layer.experts])


def _looks_like_the_loop(module: nn.Module) -> bool:
    """The usual hand-written layer: a linear ``gate`` and ``Sequential`` experts."""
    experts, gate = getattr(module, "experts", None), getattr(module, "gate", None)
    return (
        isinstance(gate, nn.Linear)
        and isinstance(experts, nn.ModuleList)
        and len(experts) == gate.out_features
        and _top_k_of(module) is not None
        and all(_linears_of(expert) is not None for expert in experts)
    )


def _top_k_of(module: nn.Module) -> int | None:
    values = (getattr(module, name, None) for name in ("top_k", "k", "num_experts_per_tok"))
    return next((value for value in values if isinstance(value, int)), None)


def _linears_of(expert: nn.Module) -> tuple[nn.Linear, nn.Linear] | None:
    """First and last layer of Linear-ReLU-Linear, in a Sequential or as the only children."""
    children = list(expert.children())
    if isinstance(expert, nn.Sequential) and len(children) == 1:
        return _linears_of(children[0])
    kinds = [nn.Linear, nn.ReLU, nn.Linear]
    if len(children) == 1 and isinstance(children[0], nn.Sequential):
        return _linears_of(children[0])
    if len(children) != 3 or not all(map(isinstance, children, kinds)):
        return None
    return cast("tuple[nn.Linear, nn.Linear]", (children[0], children[2]))


def _loop_layer(layer: Any) -> MoESpec:
    pairs = [_linears_of(expert) for expert in layer.experts]
    return _spec_of_linear_experts(layer, cast(int, _top_k_of(layer)), cast(Any, pairs))


def _spec_of_linear_experts(
    layer: Any, top_k: int, pairs: list[tuple[nn.Linear, nn.Linear]]
) -> MoESpec:
    """Gate logits, top-k, softmax over them, Linear-ReLU-Linear; output and gate logits."""
    tensors = [t for up, down in pairs for t in (up.weight, up.bias, down.weight, down.bias)]
    return MoESpec(
        gate=layer.gate.weight,
        gate_bias=layer.gate.bias,
        routing=Routing(top_k),
        activation="relu",
        weights=("up", "up_bias", "down", "down_bias"),
        tensors=tuple(tensors),
        stacked=False,
        returns_logits=True,
    )


_ACTIVATIONS: dict[str, Activation] = {
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "GELU": "gelu",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
}


def _activation(function: object) -> Activation:
    name = type(function).__name__
    if isinstance(function, nn.GELU) and function.approximate == "tanh":
        return "gelu_tanh"
    if name not in _ACTIVATIONS:
        raise ExportError(f"activation {name} is not one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _stacked(experts: Any, gate: torch.Tensor, routing: Routing, **more: Any) -> MoESpec:
    """The layout of transformers: ``gate_up_proj [E, 2h, d]`` and ``down_proj [E, d, h]``."""
    return MoESpec(
        gate=gate,
        routing=routing,
        activation=_activation(experts.act_fn),
        weights=("gate_up", "down"),
        tensors=(experts.gate_up_proj, experts.down_proj),
        stacked=True,
        **more,
    )


@moe_adapter("MixtralSparseMoeBlock")
def _mixtral(block: Any) -> MoESpec:
    routing = Routing(block.gate.top_k, score="softmax", normalise="sum")
    return _stacked(block.experts, block.gate.weight, routing)


@moe_adapter("Qwen3MoeSparseMoeBlock")
def _qwen3(block: Any) -> MoESpec:
    normalise = "sum" if block.gate.norm_topk_prob else "none"
    routing = Routing(block.gate.top_k, score="softmax", normalise=cast(Any, normalise))
    return _stacked(block.experts, block.gate.weight, routing)


@moe_adapter("DeepseekV3MoE")
def _deepseek_v3(block: Any) -> MoESpec:
    gate = block.gate
    routing = Routing(
        gate.top_k,
        score="sigmoid",
        normalise="sum" if gate.norm_topk_prob else "none",
        scale=float(gate.routed_scaling_factor),
        epsilon=1e-20 if gate.norm_topk_prob else 0.0,
        bias=gate.e_score_correction_bias,
        groups=gate.num_group,
        groups_kept=gate.topk_group,
    )
    return _stacked(block.experts, gate.weight, routing, shared=block.shared_experts)
