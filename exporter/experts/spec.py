"""What Twinport knows of one mixture-of-experts layer, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import functional

from runtime.errors import ExportError

Score = Literal["logits", "softmax", "sigmoid"]
Normalise = Literal["softmax", "sum", "none"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]

WEIGHT_NAMES = ("gate", "gate_bias", "up", "up_bias", "gate_up", "down", "down_bias")
"""What an expert may consist of; matrices are ``[out, in]``, biases ``[out]``."""


@dataclass(frozen=True)
class Routing:
    """How experts are chosen and weighed.

    ``scores = score(logits)``; the top-k is taken over ``scores + bias``, within the best
    groups where there are any; the weights are the chosen scores, normalised and scaled.

    Attributes:
        top_k: Experts a token.
        score: What becomes of the gate logits.
        normalise: Over the chosen scores: a softmax, division by their sum, or nothing.
        scale: Factor on the weights.
        epsilon: Added to the sum before the division.
        bias: ``[experts]``, for the choice only (DeepSeek-V3's correction).
        groups: Equal groups of experts, of which ``groups_kept`` are open to a token; a
            group is as good as the sum of its two best experts.
    """

    top_k: int
    score: Score = "logits"
    normalise: Normalise = "softmax"
    scale: float = 1.0
    epsilon: float = 0.0
    bias: torch.Tensor | None = None
    groups: int = 1
    groups_kept: int = 1


@dataclass(frozen=True)
class MoESpec:
    """One layer.

    Attributes:
        gate: ``[experts, width]`` matrix of the gate.
        gate_bias: ``[experts]``, or none.
        routing: How experts are chosen.
        activation: Inside the experts.
        weights: Names of ``WEIGHT_NAMES``, in the order of ``tensors``.
        tensors: Stacked: one tensor a name with a leading expert axis. Otherwise all
            tensors of expert 0, then of expert 1, and so on.
        stacked: Which of the two.
        shared: An expert that every token goes through besides, or none.
        returns_logits: Whether ``forward`` returns ``(output, gate logits)``.
    """

    gate: torch.Tensor
    routing: Routing
    activation: Activation
    weights: tuple[str, ...]
    tensors: tuple[torch.Tensor, ...]
    stacked: bool
    gate_bias: torch.Tensor | None = None
    shared: torch.nn.Module | None = None
    returns_logits: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        unknown = [name for name in self.weights if name not in WEIGHT_NAMES]
        if unknown:
            raise ExportError(f"an expert has no part '{unknown[0]}'; parts are {WEIGHT_NAMES}")
        wanted = len(self.weights) * (1 if self.stacked else self.experts)
        if len(self.tensors) != wanted:
            raise ExportError(
                f"{len(self.tensors)} tensors are given for {self.experts} experts of "
                f"{', '.join(self.weights)}; wanted {wanted}"
            )
        if not 1 <= self.routing.top_k <= self.experts:
            raise ExportError(f"top_k is {self.routing.top_k}; there are {self.experts} experts")

    @property
    def experts(self) -> int:
        """Number of experts."""
        return int(self.gate.shape[0])

    @property
    def width(self) -> int:
        """Size of a token."""
        return int(self.gate.shape[1])


@dataclass(frozen=True)
class Chosen:
    """The routing of some tokens.

    Attributes:
        logits: ``[tokens, experts]`` raw gate output.
        scores: ``[tokens, experts]`` what the weights are taken from.
        choice: ``[tokens, experts]`` what the top-k is taken over.
    """

    logits: torch.Tensor
    scores: torch.Tensor
    choice: torch.Tensor


def route(spec: MoESpec, tokens: torch.Tensor) -> Chosen:
    """Gate, score, bias and groups; everything of the routing but the top-k itself.

    Args:
        spec: The layer.
        tokens: ``[tokens, width]``.
    """
    logits = functional.linear(tokens, spec.gate, spec.gate_bias)
    scores = _SCORES[spec.routing.score](logits)
    choice = scores if spec.routing.bias is None else scores + spec.routing.bias
    if spec.routing.groups > 1:
        choice = _within_groups(choice, spec.routing)
    return Chosen(logits, scores, choice)


_SCORES = {
    "logits": lambda logits: logits,
    "softmax": lambda logits: logits.softmax(-1),
    "sigmoid": lambda logits: logits.sigmoid(),
}


def _within_groups(choice: torch.Tensor, routing: Routing) -> torch.Tensor:
    """Close the groups that are not among the best ``groups_kept`` (arXiv 2412.19437)."""
    tokens, experts = choice.shape
    grouped = choice.reshape(tokens, routing.groups, experts // routing.groups)
    value = grouped.topk(2, dim=-1).values.sum(-1)  # [tokens, groups]
    kept = value.topk(routing.groups_kept, dim=-1).indices
    every = torch.arange(routing.groups, device=choice.device)
    open_ = (kept.unsqueeze(-1) == every).any(1)  # [tokens, groups]
    closed = torch.where(open_, 0.0, -torch.inf).to(choice.dtype)
    return (grouped + closed.unsqueeze(-1)).reshape(tokens, experts)


def top_k_lowest_index(values: torch.Tensor, k: int) -> torch.Tensor:
    """``[..., k]`` places of the largest values; of equal ones those of the lowest index.

    ``torch.topk`` promises nothing about ties; a stable sort does.
    """
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def expert_counts(chosen: torch.Tensor, rows: int, experts: int) -> torch.Tensor:
    """Tokens that each expert got, by row.

    Args:
        chosen: ``[tokens, k]`` experts of each token, rows one after the other.
        rows: Number of rows that the tokens belong to.
        experts: Number of experts.

    Returns:
        int32 ``[rows, experts]``.
    """
    every = torch.arange(experts, device=chosen.device)
    per_token = (chosen.unsqueeze(-1) == every).sum(1)  # [tokens, experts]
    if not rows:
        return per_token.to(torch.int32)
    return per_token.reshape(rows, -1, experts).sum(1).to(torch.int32)


@dataclass(frozen=True)
class Gaps:
    """How clearly tokens chose: ``[tokens]`` each.

    Attributes:
        gap: Between the k-th and the next value; infinite where every open expert is chosen.
        size: The largest magnitude among the values that are open.
    """

    gap: torch.Tensor
    size: torch.Tensor


def choice_gaps(choice: torch.Tensor, k: int) -> Gaps:
    """Gap and size of each token's choice.

    Args:
        choice: ``[tokens, experts]`` values that the top-k is taken over; minus infinity
            where an expert is closed.
        k: Experts a token.
    """
    size = torch.where(choice.isfinite(), choice.abs(), 0.0).amax(-1)
    if k >= choice.shape[-1]:
        return Gaps(torch.full_like(size, torch.inf), size)
    ordered = choice.sort(dim=-1, descending=True).values
    return Gaps(ordered[:, k - 1] - ordered[:, k], size)


@dataclass(frozen=True)
class FoundLayer:
    """A layer in a module, by its path.

    Attributes:
        path: In the module tree; empty where the module is a layer itself.
        module: The layer.
        spec: What the adapter read when the layer was found.
        adapter: Reads it again: while torch.export runs, a module's parameters are not
            the ones that were found.
    """

    path: str
    module: torch.nn.Module
    spec: MoESpec
    adapter: Callable[[Any], MoESpec]


@dataclass(frozen=True)
class ExpertLayers:
    """All layers of a module in the order of its tree; they share one number of experts."""

    layers: tuple[FoundLayer, ...] = ()

    def __post_init__(self) -> None:
        """Refuse layers that one ``expert_load`` cannot count."""
        counts = sorted({layer.spec.experts for layer in self.layers})
        if len(counts) > 1:
            raise ExportError(
                f"the layers have {' and '.join(map(str, counts))} experts; "
                "expert_load wants the same number in every layer"
            )

    def __bool__(self) -> bool:
        return bool(self.layers)
