"""Modules on sequences for the calibration: recurrent, attentive, with tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    """Two layers of an LSTM or GRU; the last step is read out."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], bidirectional: bool) -> None:
        super().__init__()
        self.cell = kind(12, 32, 2, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(64 if bidirectional else 32, 5)

    def forward(self, steps: Tensor) -> Tensor:
        """Map ``[batch, time, 12]`` to ``[batch, 5]``."""
        states, _ = self.cell(steps)
        return self.head(states[:, -1])


class Encoder(nn.Module):
    """Transformer encoder layers of any length, and a head on every step."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.1, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 7)

    def forward(self, steps: Tensor) -> Tensor:
        """Map ``[batch, length, 32]`` to ``[batch, length, 7]``."""
        return self.head(self.layers(steps))


class MaskedAttention(nn.Module):
    """Attention that some keys are hidden from; a square projection in front."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(24, 24, bias=False)
        self.key = nn.Linear(24, 24, bias=False)
        self.value = nn.Linear(24, 24)

    def forward(self, steps: Tensor, keep: Tensor) -> Tensor:
        """``keep`` is ``[batch, length]``, one for keys to see; the first is always seen."""
        seen = (keep > 0) | (torch.arange(keep.shape[1]) == 0)
        scores = self.query(steps) @ self.key(steps).transpose(1, 2) / 24**0.5
        hidden = scores.masked_fill(~seen[:, None, :], float("-inf"))
        return hidden.softmax(-1) @ self.value(steps)


class Tokens(nn.Module):
    """Embedded tokens with positions, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 24)
        self.position = nn.Parameter(torch.randn(16, 24) * 0.1)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 6)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ``[batch, length]`` tokens to ``[batch, 6]``."""
        rows = self.embedding(ids) + self.position[: ids.shape[1]]
        return self.head(self.norm(rows).mean(1))
