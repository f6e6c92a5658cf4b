"""Find inputs that send tokens to experts which no sample reached.

An exporter that traces may drop an expert without a word when its sample did not reach it,
so a proof that never reaches an expert says nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from exporter.experts.opaque import first_argument
from exporter.experts.spec import Chosen, ExpertLayers, FoundLayer, route, top_k_lowest_index
from exporter.samples import Plan, Sample
from runtime.tensors import Array

KIND = "random"
"""Pooled with the drawn inputs: a few samples alone make no statistics."""
STEPS_A_TARGET = 60
_FIRST_STEP = 0.1
_GROWTH = 1.08
"""Steps grow, so that the search leaves the range of usual inputs where it has to."""

Target = tuple[int, int]
"""Place of a layer, and an expert of it."""


@dataclass
class Search:
    """What a search found.

    Attributes:
        samples: Inputs that reach a target each, in float32 at least.
        steps: Forward passes that it took.
    """

    samples: list[Sample] = field(default_factory=list)
    steps: int = 0


def unreached_targets(load: Array) -> list[Target]:
    """Pairs without a token.

    Args:
        load: ``[layers, experts]`` tokens of all samples together.
    """
    return [(int(layer), int(expert)) for layer, expert in np.argwhere(load == 0)]


def search_inputs(
    module: torch.nn.Module,
    found: ExpertLayers,
    plan: Plan,
    targets: list[Target],
    until: float,
) -> Search:
    """Climb from random inputs until a token of theirs goes to the target.

    Float inputs follow the gradient of the target's lead over the last expert that is
    chosen; without float inputs new ones are drawn.

    Args:
        module: In eval mode; its parameters get no gradient.
        found: Its layers.
        plan: Draws the inputs to begin with.
        targets: What to reach.
        until: On the clock of ``time.monotonic``; no step begins after it.
    """
    search = Search()
    missing = set(targets)
    for turn, target in enumerate(targets):
        if target not in missing:
            continue
        for inputs in _climb(module, found, plan.another(turn), target, until, search):
            reached = _reached(module, found, inputs) & missing
            if target in reached:
                missing -= reached
                rows = {plan.batch_axis: 1} if plan.batch_axis else {}
                search.samples.append(Sample(KIND, False, inputs, rows))
                break
    return search


def _climb(
    module: torch.nn.Module,
    found: ExpertLayers,
    start: Sample,
    target: Target,
    until: float,
    search: Search,
) -> Iterator[dict[str, Array]]:
    """Inputs, each nearer to the target than the one before."""
    arrays = start.arrays()
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    floats = [t.requires_grad_() for t in tensors.values() if t.is_floating_point()]
    if not floats:
        yield arrays
        return
    optimizer = torch.optim.Adam(floats, lr=_FIRST_STEP)
    for step in range(STEPS_A_TARGET):
        if time.monotonic() > until:
            return
        search.steps += 1
        with torch.enable_grad(), _choices(found) as choices:
            module(**tensors)
            lead = _lead(choices[target[0]], found.layers[target[0]], target[1])
        yield {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
        gradients = torch.autograd.grad(-lead, floats, allow_unused=True)
        for tensor, gradient in zip(floats, gradients, strict=True):
            tensor.grad = gradient
        optimizer.param_groups[0]["lr"] = _FIRST_STEP * _GROWTH**step
        optimizer.step()


def _lead(chosen: Chosen, layer: FoundLayer, expert: int) -> torch.Tensor:
    """Largest lead, over all tokens, of an expert's value over the last one chosen."""
    bias = layer.spec.routing.bias
    values = chosen.scores if bias is None else chosen.scores + bias
    last = values.topk(layer.spec.routing.top_k, dim=-1).values[:, -1]
    return (values[:, expert] - last).amax()


def _reached(
    module: torch.nn.Module, found: ExpertLayers, inputs: Mapping[str, Array]
) -> set[Target]:
    tensors = {name: torch.from_numpy(array.copy()) for name, array in inputs.items()}
    with torch.no_grad(), _choices(found) as choices:
        module(**tensors)
    reached: set[Target] = set()
    for place, chosen in choices.items():
        best = top_k_lowest_index(chosen.choice, found.layers[place].spec.routing.top_k)
        reached |= {(place, expert) for expert in set(best.flatten().tolist())}
    return reached


@contextmanager
def _choices(found: ExpertLayers) -> Iterator[dict[int, Chosen]]:
    """What each layer chose from in the calls until the block ends, by its place."""
    choices: dict[int, Chosen] = {}

    def noting(place: int, layer: FoundLayer) -> Callable[..., None]:
        def note(_module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            x = first_argument(args, kwargs)
            choices[place] = route(layer.spec, x.reshape(-1, layer.spec.width))

        return note

    handles = [
        layer.module.register_forward_pre_hook(noting(place, layer), with_kwargs=True)
        for place, layer in enumerate(found.layers)
    ]
    try:
        yield choices
    finally:
        for handle in handles:
            handle.remove()
