"""Inputs that look like images, as small pictures inside the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from runtime.manifest import Preprocessing
from runtime.tensors import Array

LONGEST_SIDE = 96
"""Pixels; a larger picture is made smaller, for the page's size."""
_SMALLEST_SIDE = 4
_MODES = {1: "L", 3: "RGB"}


def looks_like_image(sample: Array) -> bool:
    """Whether one sample, ``[channels, height, width]`` perhaps in a batch of one, can be drawn.

    Pixels as they are have their channels last.
    """
    shape = sample.shape[1:] if sample.ndim == 4 and sample.shape[0] == 1 else sample.shape
    if _are_pixels(sample):
        shape = (shape[-1], *shape[:-1])
    return len(shape) == 3 and shape[0] in _MODES and min(shape[1:]) >= _SMALLEST_SIDE


def _are_pixels(sample: Array) -> bool:
    """uint8 ``[height, width, channels]``, perhaps in a batch of one."""
    shape = sample.shape[-3:]
    return (
        sample.dtype == np.uint8
        and len(shape) == 3
        and shape[-1] in _MODES
        and shape[0] >= _SMALLEST_SIDE
    )


def picture_address(sample: Array, preprocessing: Preprocessing | None) -> str:
    """A sample as a PNG in a ``data:`` address.

    Pixels are put back to ``[0, 1]`` by the model's own preprocessing, or where there is
    none that fits by the sample's smallest and largest value.
    """
    if _are_pixels(sample):
        return _address(sample.reshape(sample.shape[-3:]))
    array = sample.reshape(sample.shape[-3:]).astype(np.float64)
    if preprocessing is not None and _fits(preprocessing, len(array)):
        mean, std = (np.reshape(v, (-1, 1, 1)) for v in (preprocessing.mean, preprocessing.std))
        array = array * std + mean
    else:
        finite = array[np.isfinite(array)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        array = (array - low) / ((high - low) or 1.0)
    pixels = np.clip(np.nan_to_num(array, nan=0.0), 0, 1) * 255
    return _address(np.moveaxis(pixels.round().astype(np.uint8), 0, -1))


def _address(rows: Array) -> str:
    """``[height, width, channels]`` uint8 as a PNG."""
    channels = rows.shape[-1]
    image = Image.fromarray(rows[..., 0] if channels == 1 else rows, _MODES[channels])
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    content = io.BytesIO()
    image.save(content, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _fits(preprocessing: Preprocessing, channels: int) -> bool:
    return {len(preprocessing.mean), len(preprocessing.std)} <= {1, channels}
