"""Modules on pictures for the calibration: convolutions, norms, residuals, patches."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn


def with_batch_statistics(module: nn.Module, *shape: int) -> nn.Module:
    """Give batch norms the statistics of random inputs, as training would leave them."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain average over the calls below
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    module.train()
    with torch.no_grad():
        for _ in range(4):
            module(torch.randn(16, *shape))
    return module.eval()


class ResidualCnn(nn.Module):
    """Channel normalisation inside, batch norms, one residual block with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.306]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.324, 0.225]).view(1, 3, 1, 1))
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[batch, 3, 24, 24]`` to ``[batch, 10]``."""
        maps = torch.relu(self.stem((image - self.mean) / self.std))
        # The first norm has an activation before it, so that no exporter folds it away.
        inner = torch.relu(self.norm2(self.conv1(self.norm1(maps))))
        maps = maps + torch.relu(self.conv2(inner))
        return self.head(torch.relu(maps).mean((2, 3)))


class DepthwiseCnn(nn.Module):
    """Depthwise and pointwise convolutions with strides, hard-swish and average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.depth1 = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.point1 = nn.Conv2d(8, 24, 1)
        self.depth2 = nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24)
        self.point2 = nn.Conv2d(24, 32, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[batch, 8, 20, 20]`` to ``[batch, 32, 5, 5]``."""
        maps = nn.functional.hardswish(self.point1(self.depth1(image)))
        maps = nn.functional.hardswish(self.point2(self.depth2(maps)))
        return nn.functional.avg_pool2d(maps, 2)


class Segmenter(nn.Module):
    """Down by a strided convolution, up by a transposed one, a skip, a picture out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 8, 4, stride=2, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1)
        self.head = nn.Conv2d(5, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[batch, 1, 32, 32]`` to ``[batch, 3, 32, 32]``."""
        maps = torch.relu(self.norm(self.middle(torch.relu(self.down(image)))))
        return self.head(torch.cat([self.up(maps), image], 1))


class InstanceNormCnn(nn.Module):
    """Without padding: on constant inputs each map is constant and the norm divides zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 5)
        self.norm = nn.InstanceNorm2d(12)
        self.conv2 = nn.Conv2d(12, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Map ``[batch, 3, 24, 24]`` to ``[batch, 4, 18, 18]``."""
        return self.conv2(torch.relu(self.norm(self.conv1(image))))


def resnet18() -> nn.Module:
    """Torchvision's, with batch statistics."""
    return with_batch_statistics(torchvision.models.resnet18(num_classes=10), 3, 32, 32)


def mobilenet() -> nn.Module:
    """Torchvision's MobileNetV3 small, with batch statistics."""
    module = torchvision.models.mobilenet_v3_small(num_classes=10)
    return with_batch_statistics(module, 3, 32, 32)


def vit() -> nn.Module:
    """Torchvision's vision transformer, small, with a head that is not zero."""
    module = zero_head_vit()
    nn.init.normal_(module.heads.head.weight, std=0.05)
    return module


def zero_head_vit() -> nn.Module:
    """As torchvision makes it: the head is zero and so is every answer."""
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=64, mlp_dim=128,
        num_classes=10,
    )  # fmt: skip


def residual_cnn() -> nn.Module:
    """The residual network with batch statistics."""
    return with_batch_statistics(ResidualCnn(), 3, 24, 24)
