"""Modules on plain vectors for the calibration: norms, gates, reductions, odd magnitudes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """Linear layers with one activation between them and a factor on the result."""

    def __init__(
        self, widths: list[int], activation: Callable[[], nn.Module], scale: float = 1.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), activation()]
        self.layers = nn.Sequential(*layers[:-1])
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, widths[0]]`` to ``[batch, widths[-1]]``."""
        return self.layers(x) * self.scale


def deep_mlp() -> nn.Module:
    """Fifty layers that neither fade nor explode."""
    module = Mlp([32] * 51, nn.ReLU)
    for layer in module.layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return module


class NormMlp(nn.Module):
    """A norm before each of two linear layers."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.linear1 = norm(32), nn.Linear(32, 48)
        self.norm2, self.linear2 = norm(48), nn.Linear(48, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 32]`` to ``[batch, 8]``."""
        return self.linear2(self.norm2(torch.relu(self.linear1(self.norm1(x)))))


class RmsNorm(nn.Module):
    """As language models write it: in float32, whatever comes in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``[..., width]`` to a mean square of one."""
        wide = x.to(torch.float32)
        size = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
        return self.weight * (wide * size).to(x.dtype)


class Heads(nn.Module):
    """Several outputs by name, of different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(16, 32)
        self.mean, self.spread = nn.Linear(32, 4), nn.Linear(32, 4)
        self.logits = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map ``[batch, 16]`` to three outputs."""
        hidden = torch.tanh(self.trunk(x))
        return {
            "mean": self.mean(hidden),
            "spread": nn.functional.softplus(self.spread(hidden)),
            "class": self.logits(hidden).log_softmax(-1),
        }


class Gates(nn.Module):
    """A highway: a sigmoid decides between the new value and the old."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))
        self.new = nn.ModuleList(nn.Linear(24, 24) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 24]`` to ``[batch, 24]``."""
        for gate, new in zip(self.gate, self.new, strict=True):
            share = torch.sigmoid(gate(x))
            x = share * torch.tanh(new(x)) + (1 - share) * x
        return x


class LongSoftmax(nn.Module):
    """Probabilities over a long axis, each of them small."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 4096]`` to itself."""
        return torch.softmax(x, -1)


class Bilinear(nn.Module):
    """Two contractions that einsum writes."""

    def __init__(self) -> None:
        super().__init__()
        self.form = nn.Parameter(torch.randn(6, 12, 10) / 12)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Map ``[batch, 5, 12]`` and ``[batch, 5, 10]`` to ``[batch, 5, 5, 6]``."""
        turned = torch.einsum("bni,kij->bnkj", left, self.form)
        return torch.einsum("bnkj,bmj->bnmk", turned, right)


class Reductions(nn.Module):
    """Statistics of a row, each an output of its own."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map ``[batch, 200]`` to five outputs ``[batch]``."""
        return {
            "mean": x.mean(-1),
            "variance": x.var(-1),
            "length": torch.linalg.vector_norm(x, dim=-1),
            "soft_maximum": torch.logsumexp(x, -1),
            "range": x.amax(-1) - x.amin(-1),
        }


class Exponential(nn.Module):
    """Overflows float32, not float64, on large inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 16]`` to ``[batch, 8]``, all positive."""
        return torch.exp(self.linear(x))


class Fourier(nn.Module):
    """Sines of a projection; on large inputs float32 has few digits of the angle left."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 32)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 8]`` to ``[batch, 4]``."""
        angle = 2 * torch.pi * self.linear(x)
        return self.head(torch.cat([torch.sin(angle), torch.cos(angle)], -1))


class DenseExperts(nn.Module):
    """A mixture of experts with every expert computed and weighed by a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 6)
        self.inner = nn.Parameter(torch.randn(6, 16, 32) / 4)
        self.outer = nn.Parameter(torch.randn(6, 32, 16) / 6)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 16]`` to ``[batch, 16]``."""
        weight = self.gate(x).softmax(-1)  # [batch, experts]
        hidden = nn.functional.silu(torch.einsum("bi,eih->beh", x, self.inner))
        each = torch.einsum("beh,eho->beo", hidden, self.outer)
        return torch.einsum("be,beo->bo", weight, each)


class BatchCentred(nn.Module):
    """Subtracts the batch's mean: right as it is, and never to be joined."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[batch, 16]`` to ``[batch, 8]``."""
        return self.linear(x) + 0.1 * x.mean(0, keepdim=True)[:, :8]
