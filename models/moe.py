"""A mixture of experts: the layer, its balance loss, and a classifier of digits made of it.

The layer is the one of "Outrageously large neural networks" (N. Shazeer et al., 2017,
arXiv 1701.06538) without noise: a token goes to the k experts that its gate scores highest,
and their outputs are weighted by a softmax over those k scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.routing import Routed, top_k_lowest_index

TOKENS = 5 * 5  # what the stem leaves of 32x32 pixels


class Expert(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[tokens, width]`` in and out."""
        output: Tensor = self.fc2(self.relu(self.fc1(tokens)))
        return output


class MoELayer(nn.Module):
    """A gate, and experts of which each token sees ``top_k``.

    Args:
        width: Size of a token.
        hidden: Size of an expert's hidden layer.
        experts: Number of experts.
        top_k: Experts a token.

    Raises:
        ValueError: ``top_k`` is not from 1 to ``experts``.
    """

    def __init__(self, width: int, hidden: int, experts: int, top_k: int) -> None:
        super().__init__()
        if not 1 <= top_k <= experts:
            raise ValueError(f"top_k is {top_k}; with {experts} experts give 1 to {experts}")
        self.top_k = top_k
        self.gate = nn.Linear(width, experts)
        self.experts = nn.ModuleList(Expert(width, hidden) for _ in range(experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Send every token through its experts.

        Args:
            x: ``[tokens, width]`` or ``[batch, tokens, width]``; there may be no tokens.

        Returns:
            Output as ``x``, and gate logits ``[..., experts]``.
        """
        tokens = x.flatten(0, -2)  # [tokens, width]
        logits = self.gate(tokens)  # [tokens, experts]
        best, chosen = top_k_lowest_index(logits, self.top_k)  # [tokens, k] each
        weight = best.softmax(-1)  # [tokens, k]
        output = torch.zeros_like(tokens)
        for index, expert in enumerate(self.experts):
            token, place = torch.where(chosen == index)
            if len(token) > 0:
                answer = expert(tokens.index_select(0, token)) * weight[token, place].unsqueeze(-1)
                output.index_add_(0, token, answer)
        return output.reshape(x.shape), logits.reshape(*x.shape[:-1], len(self.experts))


class MoEBlock(nn.Module):
    """Norm, mixture of experts, and the way around both."""

    def __init__(self, width: int, hidden: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.moe = MoELayer(width, hidden, experts, top_k)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """``[batch, tokens, width]`` in and out, and the gate logits."""
        output, gate_logits = self.moe(self.norm(tokens))
        return tokens + output, gate_logits


class MoEClassifier(nn.Module):
    """Digits on 32x32 pixels: a convolutional stem, 25 patch tokens, three layers of experts."""

    def __init__(
        self,
        *,
        width: int = 48,
        hidden: int = 96,
        layers: int = 3,
        experts: int = 8,
        top_k: int = 2,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.stem = nn.Sequential(
            # Pooling first gives what ReLU first gives, and leaves it a quarter of the work.
            nn.Conv2d(1, width // 3, kernel_size=5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(width // 3, width, kernel_size=5),
            nn.MaxPool2d(2),
            nn.ReLU(),
        )
        self.position = nn.Parameter(torch.randn(TOKENS, width) * 0.02)
        self.blocks = nn.ModuleList(MoEBlock(width, hidden, experts, top_k) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(TOKENS * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Score the ten digits.

        Args:
            image: ``[batch, 1, 32, 32]``, normalised (``models.data.prepare``).

        Returns:
            ``[batch, 10]`` logits, the digits 0 to 9 in order.
        """
        return self.routed(image).logits

    def routed(self, image: Tensor) -> Routed:
        """As ``forward``, with the gate logits of every layer; what training calls."""
        maps = self.stem(image)  # [batch, width, 5, 5]
        tokens = maps.flatten(2).transpose(1, 2) + self.position  # [batch, 25, width]
        gate_logits = []
        for block in self.blocks:
            tokens, logits = block(tokens)
            gate_logits.append(logits)  # [batch, 25, experts]
        answer = self.head(self.norm(tokens).flatten(1))
        return Routed(answer, tuple(gate_logits), self.top_k)
