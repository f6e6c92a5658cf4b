"""Who chose whom in the layers of a mixture of experts, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class Routed:
    """What a model answers, and what its gates said on the way.

    Attributes:
        logits: ``[batch, classes]``.
        gate_logits: One ``[..., experts]`` a layer; none where a model has no experts.
        top_k: Experts a token.
    """

    logits: Tensor
    gate_logits: tuple[Tensor, ...] = ()
    top_k: int = 0

    def balance_loss(self) -> Tensor:
        """The mean of ``balance_loss`` over the layers; 0 where there are none."""
        if not self.gate_logits:
            return self.logits.new_zeros(())
        losses = [balance_loss(logits, self.top_k) for logits in self.gate_logits]
        return torch.stack(losses).mean()

    def expert_tokens(self) -> Tensor:
        """int64 ``[layers, experts]``: the tokens that each expert got."""
        if not self.gate_logits:
            return torch.zeros(0, 0, dtype=torch.int64, device=self.logits.device)
        return torch.stack([expert_tokens(logits, self.top_k) for logits in self.gate_logits])


@runtime_checkable
class Routing(Protocol):
    """A model that can say what its gates said; training then keeps its experts balanced."""

    def routed(self, image: Tensor) -> Routed:
        """As ``forward``, with the gate logits of every layer."""


def answer(module: nn.Module, image: Tensor) -> Routed:
    """Ask any model; of one without experts the logits are all there is."""
    return module.routed(image) if isinstance(module, Routing) else Routed(module(image))


def top_k_lowest_index(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values and their places; of equal ones those of the lowest index.

    ``torch.topk`` promises nothing about ties; a stable sort does.

    Args:
        values: ``[..., n]``.
        k: At most ``n``.

    Returns:
        Values and places, ``[..., k]`` each, the largest first.
    """
    ordered, places = values.sort(dim=-1, descending=True, stable=True)
    return ordered[..., :k], places[..., :k]


def expert_tokens(gate_logits: Tensor, top_k: int) -> Tensor:
    """How many tokens each expert gets.

    Args:
        gate_logits: ``[..., experts]`` of one layer.
        top_k: Experts a token.

    Returns:
        int64 ``[experts]``; they sum to ``top_k`` times the tokens.
    """
    _, chosen = top_k_lowest_index(gate_logits, top_k)
    return torch.bincount(chosen.flatten(), minlength=gate_logits.shape[-1])


def balance_loss(gate_logits: Tensor, top_k: int) -> Tensor:
    """A loss that pushes the gate of one layer towards an even load.

    ``experts · Σ share_i · probability_i``: the share of all choices that fell on expert i
    times its mean gate probability. It is 1 where both are even and ``experts / top_k`` at
    most. The gradient flows through the probabilities alone and lowers those of the experts
    that got the most. After W. Fedus et al., "Switch transformers", 2021 (arXiv 2101.03961,
    equations 4 to 6), and D. Lepikhin et al., "GShard", 2020 (arXiv 2006.16668), with the
    share taken over all k choices.

    Args:
        gate_logits: ``[..., experts]`` of one layer.
        top_k: Experts a token.

    Returns:
        A scalar; 0 where there are no tokens.
    """
    logits = gate_logits.flatten(0, -2)  # [tokens, experts]
    tokens, experts = logits.shape
    counts = expert_tokens(logits, top_k).to(logits.dtype)
    probability = logits.softmax(-1).sum(0)  # [experts], sums to the tokens
    return experts * (counts * probability).sum() / max(top_k * tokens * tokens, 1)


def least_share(tokens: NDArray[np.int64]) -> float:
    """What the least used expert of any layer got of its even share.

    Args:
        tokens: ``[layers, experts]``; at least one token in each layer.
    """
    return float((tokens / tokens.mean(1, keepdims=True)).min())


def balance(tokens: NDArray[np.int64] | Sequence[int]) -> float:
    """One less deviation over mean, over the experts of one layer: 1 is even.

    Args:
        tokens: ``[experts]``.
    """
    load = np.asarray(tokens, np.float64)
    return float(1 - load.std() / load.mean()) if load.any() else 1.0
