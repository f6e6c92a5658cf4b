"""Small affine changes of whole batches of images."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from models.recipes import Augmentation


def augment(scaled: Tensor, limits: Augmentation, generator: torch.Generator) -> Tensor:
    """Turn, shift, scale and shear each image on its own; what comes in is black.

    Args:
        scaled: ``[n, 1, height, width]``, pixels in [0, 1].
        limits: The largest change.
        generator: On the CPU, so that every device sees the same changes.

    Returns:
        As ``scaled``.
    """
    theta = _affine(len(scaled), scaled.shape[-1], limits, generator).to(scaled.device)
    grid = functional.affine_grid(theta, list(scaled.shape), align_corners=False)
    return functional.grid_sample(scaled, grid, align_corners=False)


def _affine(n: int, side: int, limits: Augmentation, generator: torch.Generator) -> Tensor:
    """``[n, 2, 3]``: for each output pixel, in units of half a side, where it comes from."""
    even = torch.rand(5, n, generator=generator) * 2 - 1
    angle = even[0] * math.radians(limits.degrees)
    scale = 1 + even[1] * limits.scale
    shear = even[2] * limits.shear
    shift = even[3:] * (2 * limits.shift_pixels / side)  # [2, n]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    across = torch.stack([cos, cos * shear - sin, shift[0]], dim=1)
    down = torch.stack([sin, sin * shear + cos, shift[1]], dim=1)
    return torch.stack([across, down], dim=1)
