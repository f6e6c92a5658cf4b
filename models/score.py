"""How well a module answers a part of the data, and how evenly its experts were used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.data import IntArray, Split, normalised, resized
from models.routing import answer, balance


@dataclass(frozen=True)
class Part:
    """Images ready for a device.

    Attributes:
        pixels: uint8 ``[n, 1, 32, 32]``.
        labels: int64 ``[n]``.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Score:
    """How well a module answers a part.

    Attributes:
        loss: Mean cross-entropy.
        accuracy: Share of right answers.
        predicted: ``[n]``.
        expert_tokens: ``[layers, experts]``; no layers where a model has no experts.
    """

    loss: float
    accuracy: float
    predicted: IntArray
    expert_tokens: IntArray

    @property
    def balance(self) -> tuple[float, ...]:
        """``models.routing.balance`` of each layer."""
        return tuple(balance(tokens) for tokens in self.expert_tokens)


def part_from_split(split: Split, device: torch.device) -> Part:
    """Resize the images once and bring them to the device."""
    labels = torch.from_numpy(split.labels)
    return Part(resized(split.images).to(device), labels.to(device))


def evaluate(module: nn.Module, part: Part, batch_size: int) -> Score:
    """Answer a whole part in evaluation mode and compare with its labels."""
    module.eval()
    total, answers, tokens = 0.0, [], []
    with torch.inference_mode():
        for start in range(0, len(part), batch_size):
            here = slice(start, start + batch_size)
            answered = answer(module, normalised(part.pixels[here].float().div(255)))
            logits, labels = answered.logits, part.labels[here]
            total += functional.cross_entropy(logits, labels, reduction="sum").item()
            answers.append(logits.argmax(1))
            tokens.append(answered.expert_tokens())
    predicted = torch.cat(answers)
    right = int((predicted == part.labels).sum())
    return Score(
        total / len(part),
        right / len(part),
        predicted.cpu().numpy(),
        torch.stack(tokens).sum(0).cpu().numpy(),
    )
