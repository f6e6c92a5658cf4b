"""Pixels to a model's input in torch, as a module that goes before the model.

A resize is two products with matrices of a triangle filter, which is what Pillow's and
torch's antialiased bilinear resize compute: pixel centres at halves, the filter as wide as
the step where a picture becomes smaller. Written so, torch runs it in float64, ONNX has every
operator of it in every version, and TensorRT builds it, which takes no antialiased Resize.
Values between the two products are not rounded to whole pixels, as Pillow does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from runtime.manifest import Preprocessing


class Preprocess(nn.Module):
    """``[batch, height, width, channels]`` uint8 to ``[batch, channels, h, w]`` float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, record: Preprocessing, *, resizes: bool) -> None:
        """Make it for one model.

        Args:
            record: Sizes, mean and deviation.
            resizes: Whether pictures come in any size; else they have the right one.
        """
        super().__init__()
        self.record = record
        self.resizes = resizes
        for name, values in (("mean", record.mean), ("std", record.std)):
            tensor = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, tensor, persistent=False)  # none of the model's weights

    def forward(self, pixels: Tensor) -> Tensor:
        """Resize, scale to ``[0, 1]``, normalise."""
        # First of all the type: TensorRT takes uint8 at the graph's end alone.
        image = pixels.to(torch.float32).permute(0, 3, 1, 2)  # [batch, channels, height, width]
        if self.resizes:
            image = self._resized(image)
        return (image / 255 - self.mean) / self.std

    def _resized(self, image: Tensor) -> Tensor:
        record = self.record
        down = _centres(image.shape[2], image)  # [height]
        across = _centres(image.shape[3], image)  # [width]
        high, wide = down[-1] + 0.5, across[-1] + 0.5
        if record.short_side is None:
            rows = filter_matrix(down, high / record.height, record.height)
            columns = filter_matrix(across, wide / record.width, record.width)
        else:
            shorter = torch.minimum(high, wide)
            rows = _middle(down, high, shorter, record.short_side, record.height)
            columns = _middle(across, wide, shorter, record.short_side, record.width)
        return torch.matmul(rows, torch.matmul(image, columns.transpose(0, 1)))


def _centres(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, dtype=torch.float32, device=like.device) + 0.5


def _middle(centres: Tensor, size: Tensor, shorter: Tensor, side: int, count: int) -> Tensor:
    """The filter of one axis whose picture keeps its form, for the ``count`` in its middle.

    As torchvision's Resize and CenterCrop: the longer side is cut to a whole number, and half
    of an odd rest goes to the even number.
    """
    resized = torch.div(size.long() * side, shorter.long(), rounding_mode="floor").to(centres.dtype)
    first = torch.round((resized - count) / 2)
    return filter_matrix(centres, size / resized, count, first)


def filter_matrix(centres: Tensor, step: Tensor, count: int, first: Tensor | float = 0.0) -> Tensor:
    """Weights of a triangle filter.

    Args:
        centres: ``[size]`` of the pixels that are there.
        step: Pixels that are there for each new one.
        count: New pixels.
        first: The place of the first of them.

    Returns:
        ``[count, size]``; each row sums to one.
    """
    places = torch.arange(count, dtype=torch.float32, device=centres.device) + 0.5 + first
    reach = torch.clamp(step, min=1.0)
    distance = (places * step).unsqueeze(1) - centres.unsqueeze(0)
    weights = torch.relu(1 - torch.abs(distance) / reach)
    return weights / weights.sum(1, keepdim=True)


class PixelsFirst:
    """A hook that hands a module the prepared picture in the pixels' place.

    The module itself stays the root, so that every path and every weight keeps its name.
    """

    def __init__(self, input_name: str, child: str) -> None:
        self.input_name = input_name
        self.child = child

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Called before ``forward``."""
        prepared = getattr(module, self.child)(kwargs[self.input_name])
        return args, {**kwargs, self.input_name: prepared}


def put_before(module: nn.Module, preprocess: Preprocess) -> str:
    """Let a module take pixels; it is changed.

    Returns:
        The name of the new child.
    """
    child = "preprocess"
    while hasattr(module, child):
        child += "_"
    module.add_module(child, preprocess)
    hook = PixelsFirst(preprocess.record.input, child)
    module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True)
    return child
