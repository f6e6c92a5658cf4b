"""Models of benchmarks, made by factories as a user's own would be.

Weights are drawn with a fixed seed; nothing is downloaded. torchvision leaves the head of a
ViT at zero, so that its output never varies and its proof would be vacuous: it is drawn, too.
"""

from __future__ import annotations

import torch
import torchvision
from torch import nn

SEED = 20240229


def lenet5() -> nn.Module:
    """The built-in model with its own weights; takes ``[batch, 1, 32, 32]``."""
    from models.registry import entry

    return entry("lenet5").load()


def resnet18() -> nn.Module:
    """Torchvision's ResNet-18; takes ``[batch, 3, 224, 224]``."""
    torch.manual_seed(SEED)
    return torchvision.models.resnet18(weights=None)


def vit_b_32() -> nn.Module:
    """Torchvision's ViT-B/32; takes ``[batch, 3, 224, 224]``."""
    torch.manual_seed(SEED)
    module = torchvision.models.vit_b_32(weights=None)
    nn.init.normal_(module.heads.head.weight, std=0.02)
    nn.init.normal_(module.heads.head.bias, std=0.02)
    return module


def fifty_layers() -> nn.Module:
    """Fifty linear layers with a ReLU after each but the last; takes ``[batch, 32]``."""
    from zoo_dense import deep_mlp

    torch.manual_seed(SEED)
    return deep_mlp()
