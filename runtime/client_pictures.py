"""Pictures to a model's input and its answer to labels, as its manifest says; Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from runtime.client_wire import ServedModel
from runtime.errors import InvalidInput
from runtime.preprocess import Label, array_from_image, read_image, rows_for, top_labels
from runtime.tensors import Array


def arrays_from_pictures(
    pictures: Sequence[Path | str | Image.Image], model: ServedModel, *, invert: bool = False
) -> dict[str, Array]:
    """All pictures as one batch.

    Args:
        pictures: Files, or images in any mode.
        model: What the server says of the model.
        invert: Swap light and dark.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is no picture, the model takes none, or pictures of several sizes
            cannot be one batch.
    """
    preprocessing = model.properties.preprocessing
    if preprocessing is None or len(model.inputs) != 1:
        raise InvalidInput(
            f"model '{model.name}' does not say how a picture becomes its input; send arrays"
        )
    if isinstance(pictures, (str, Path, Image.Image)):
        raise InvalidInput("the pictures are one; wanted a list of them")
    if not pictures:
        raise InvalidInput("there is no picture; give at least one")
    arrays = [
        array_from_image(
            _image(picture), preprocessing, invert=invert, wanted=model.inputs[0],
        )
        for picture in pictures
    ]  # fmt: skip
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width, *_ in sorted(sizes))
        raise InvalidInput(
            f"the pictures have {len(sizes)} sizes ({shown}) and model '{model.name}' takes pixels "
            "as they are; one call takes pictures of one size"
        )
    return {model.inputs[0].name: rows_for(model.inputs[0], np.stack(arrays))}


def _image(picture: Path | str | Image.Image) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, (str, Path)):
        return read_image(Path(picture))
    raise InvalidInput(f"a picture is a {type(picture).__name__}; wanted a file or a Pillow image")


def labels_of(
    outputs: Mapping[str, Array], model: ServedModel, top: int
) -> list[list[Label]] | None:
    """The likeliest classes of each row, from the first output with a value for each label."""
    names = model.properties.labels
    if not names:
        return None
    for array in outputs.values():
        fits = array.ndim >= 2 and array.size == len(array) * len(names)
        if fits and array.dtype.kind == "f":
            return [top_labels(row.reshape(-1), names, top) for row in array]
    return None


def labels_wanted(outputs: Mapping[str, Array], model: ServedModel, top: int) -> list[list[Label]]:
    """``labels_of``, where there must be some.

    Raises:
        InvalidInput: The model has no labels, or fewer than one is wanted.
    """
    if top < 1:
        raise InvalidInput(f"the likeliest {top} classes are wanted; ask for 1 or more")
    labels = labels_of(outputs, model, top)
    if labels is None:
        raise InvalidInput(f"model '{model.name}' has no labels for its outputs; use infer")
    return labels
