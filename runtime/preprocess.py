"""Between a user's picture and the model's arrays: pixels in, labels out; NumPy and Pillow.

The arithmetic is that of torchvision's ``Resize``, ``ToTensor`` and ``Normalize`` on a PIL
image, in the same order in float32, and gives the same bits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from runtime.errors import InvalidInput, NotFound
from runtime.manifest import Preprocessing
from runtime.tensors import Array, TensorSpec

FORMATS = ("PNG", "JPEG")
_MODES = {"gray": "L", "rgb": "RGB"}
_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR}
_WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(path: Path) -> Image.Image:
    """Read a PNG or JPEG whole, turned upright as its EXIF data says.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is no PNG or JPEG, is cut or damaged, or has so many pixels that
            it looks like an attack on the memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # corrupt EXIF data: upright then
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}") from None
    except UnidentifiedImageError:
        raise InvalidInput(f"{path} is not a picture; wanted PNG or JPEG") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(
            f"{path} has more pixels than the {Image.MAX_IMAGE_PIXELS} that are read; scale it down"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow's decoders share no class of error.
        raise InvalidInput(f"{path} cannot be read as a picture: {error}") from error


def array_from_image(
    image: Image.Image,
    preprocessing: Preprocessing,
    *,
    invert: bool = False,
    wanted: TensorSpec | None = None,
) -> Array:
    """Make the model's input of one picture.

    Where the artifact prepares pictures itself, that is the pixels.

    Transparent parts lie on white, 16-bit gray is scaled to 8 bits, palettes and other
    colour spaces become gray or RGB, whichever the model wants.

    Args:
        image: The picture in any mode.
        preprocessing: Size, channels, mean and deviation.
        invert: Swap light and dark first: photographed digits are dark on light, MNIST's
            are light on dark.
        wanted: The input as the server describes it; pixels are resized here where it has
            one size only.

    Returns:
        ``[channels, height, width]`` float32, or uint8 ``[height, width, channels]``.

    Raises:
        InvalidInput: The picture is empty, or means or deviations do not fit the channels.
    """
    if 0 in image.size:
        raise InvalidInput(f"the picture has {image.width}x{image.height} pixels; wanted some")
    plain = _on_white(_eight_bits(image)).convert(_MODES[preprocessing.color])
    if invert:
        plain = ImageOps.invert(plain)
    if preprocessing.done_by == "artifact":
        return _pixels(plain, preprocessing, wanted)
    resized = _resized(plain, preprocessing)
    pixels = np.asarray(resized, dtype=np.uint8)  # [height, width] or [height, width, 3]
    pixels = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    mean, std = _statistics(preprocessing, len(pixels))
    scaled = pixels.astype(np.float32) / np.float32(255)
    return np.ascontiguousarray((scaled - mean) / std)


def _pixels(image: Image.Image, preprocessing: Preprocessing, wanted: TensorSpec | None) -> Array:
    """uint8 ``[height, width, channels]``."""
    sides = wanted.shape[-3:-1] if wanted is not None and len(wanted.shape) >= 3 else (0, 0)
    height, width = (
        side if isinstance(side, int) and side > 0 else own
        for side, own in zip(sides, (image.height, image.width), strict=True)
    )
    if (width, height) != image.size:
        image = image.resize((width, height), _RESAMPLE[preprocessing.resample])
    pixels = np.array(image, dtype=np.uint8)
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Stretched, or with its form kept and the middle cut out, as torchvision does it."""
    resample = _RESAMPLE[preprocessing.resample]
    size = (preprocessing.width, preprocessing.height)
    if preprocessing.short_side is None:
        return image.resize(size, resample)
    shorter = min(image.size)
    sides = tuple(preprocessing.short_side * side // shorter for side in image.size)
    left, top = (round((side - part) / 2) for side, part in zip(sides, size, strict=True))
    whole = image.resize((sides[0], sides[1]), resample)
    return whole.crop((left, top, left + size[0], top + size[1]))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Wide gray to 8 bits; Pillow would clip it instead."""
    if image.mode not in _WIDE_MODES:
        return image
    wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if not ("A" in image.getbands() or "transparency" in image.info):
        return image
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")


def _statistics(preprocessing: Preprocessing, channels: int) -> tuple[Array, Array]:
    """``[channels or 1, 1, 1]`` float32 mean and deviation."""
    mean, std = (
        np.asarray(values, dtype=np.float32).reshape(-1, 1, 1)
        for values in (preprocessing.mean, preprocessing.std)
    )
    if {len(mean), len(std)} - {1, channels} or not np.all(std != 0):
        raise InvalidInput(
            f"mean {preprocessing.mean} and std {preprocessing.std} do not fit "
            f"{channels} channels; wanted one of each per channel, std not zero"
        )
    return mean, std


@dataclass(frozen=True)
class Label:
    """One class of an answer."""

    index: int
    name: str
    probability: float


def rows_for(spec: TensorSpec, pictures: Array) -> Array:
    """Pictures in the shape of an input that takes as many values a row (``[batch, 1024]``).

    Args:
        spec: The input, axis 0 the batch.
        pictures: ``[n, channels, height, width]``; they stay so where nothing fits.
    """
    below = [axis for axis in spec.shape[1:] if isinstance(axis, int)]
    if len(below) == len(spec.shape) - 1 and math.prod(below) == pictures[0].size:
        return pictures.reshape(len(pictures), *below)
    return pictures


def top_labels(logits: Array, labels: Sequence[str], k: int) -> list[Label]:
    """The ``k`` likeliest classes, best first; equal ones by index.

    Args:
        logits: ``[classes]``; values that are a distribution already are taken as one,
            others go through softmax.
        labels: A name for each class.
        k: How many; more than there are gives all.

    Raises:
        InvalidInput: There are not as many names as values.
    """
    if logits.shape != (len(labels),):
        raise InvalidInput(
            f"the answer has shape {list(logits.shape)} and there are {len(labels)} labels"
        )
    values = logits.astype(np.float64)
    order = np.argsort(-values, kind="stable")[:k]
    chances = values if _is_distribution(values) else _softmax(values)
    return [Label(int(i), labels[i], float(chances[i])) for i in order]


def _is_distribution(values: Array) -> bool:
    return bool(np.all(values >= 0) and abs(values.sum() - 1) < 1e-3)


def _softmax(values: Array) -> Array:
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, as they should
        powers = np.exp(values - values.max())
        return np.asarray(powers / powers.sum())
