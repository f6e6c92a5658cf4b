"""Frame small glyphs as MNIST frames its digits: 20x20, centred by mass in 28x28."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BOX = 20
FRAME = 28


def frame_glyphs(glyphs: NDArray[Any]) -> NDArray[np.uint8]:
    """Scale each glyph into the box and put its centre of mass into the frame's centre.

    Args:
        glyphs: ``[n, height, width]``, ink from 0 to 1.

    Returns:
        ``[n, 28, 28]``, ink from 0 to 255.
    """
    framed = np.zeros((len(glyphs), FRAME, FRAME), np.uint8)
    for index, glyph in enumerate(glyphs):
        _place(_boxed(np.asarray(glyph, np.float32)), framed[index])
    return framed


def _boxed(glyph: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Crop to the ink and scale so that the longer side fills the box."""
    rows, columns = np.nonzero(glyph.any(1))[0], np.nonzero(glyph.any(0))[0]
    if len(rows) == 0:
        return np.zeros((BOX, BOX), np.uint8)
    inked = glyph[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    factor = BOX / max(inked.shape)
    height, width = (max(1, round(side * factor)) for side in inked.shape)
    image = Image.fromarray(inked * 255.0).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image).round().clip(0, 255).astype(np.uint8)


def _place(box: NDArray[np.uint8], frame: NDArray[np.uint8]) -> None:
    """Write the box into the frame, its centre of mass at the middle, nothing cut off."""
    corner = []
    for axis, side in enumerate(box.shape):
        ink = box.sum(1 - axis, dtype=np.float64)
        centre = float((np.arange(side) + 0.5) @ ink / ink.sum()) if ink.any() else side / 2
        corner.append(min(max(round(FRAME / 2 - centre), 0), FRAME - side))
    top, left = corner
    frame[top : top + box.shape[0], left : left + box.shape[1]] = box
