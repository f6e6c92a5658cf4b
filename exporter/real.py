"""Real inputs for a proof: a data set of the built-in model, or the user's ``--samples``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.ranges import range_of
from exporter.samples import shared_batch_axis
from exporter.source import Source
from runtime.array_files import load_arrays
from runtime.errors import InvalidInput, NotFound
from runtime.tensors import Array, check_array

if TYPE_CHECKING:
    from models.data import Split

_DIGITS = "scikit-learn digits"


@dataclass(frozen=True)
class RealData:
    """Rows of real inputs.

    Attributes:
        name: Of the data set, for people.
        inputs: ``[rows, ...]`` for each input of the model; ``[calls, ...]``, a whole input
            each, where the inputs have no free axis 0 in common.
        labels: ``[rows]`` class of each row, where known; the last of the calls may have
            more rows than there are labels.
        label_output: The output whose largest value names the class.
    """

    name: str
    inputs: Mapping[str, Array]
    labels: Array | None = None
    label_output: str | None = None

    def __len__(self) -> int:
        return min(len(array) for array in self.inputs.values())


def real_data(source: Source, data: Path | None = None, samples: Path | None = None
              ) -> RealData | None:  # fmt: skip
    """Real inputs for a source, or none.

    Args:
        source: What is exported.
        data: Folder of MNIST; ``TWINPORT_DATA`` and ``./data`` after it.
        samples: An ``.npz`` with an array of rows for each input.

    Raises:
        NotFound: ``samples`` does not exist.
        InvalidInput: ``samples`` does not hold what the model takes.
    """
    if samples is not None:
        return _from_npz(source, samples)
    if source.builtin and source.preprocessing and source.labels:
        return digit_data(source, data)
    return None


def digit_data(source: Source, data: Path | None = None) -> RealData:
    """MNIST's test images where they are, else the bundled digits; no network is used.

    They come as calls where the model's batch has a fixed size.

    Raises:
        NotFound: A folder was named and MNIST is not in it.
    """
    from models.data import digits, load_mnist

    folder = _mnist_folder(data)
    split = digits() if folder is None else load_mnist(folder, train=False)
    return _prepared(source, _DIGITS if folder is None else "MNIST test", split)


def training_data(
    source: Source, data: Path | None, real: RealData, rows: int
) -> tuple[RealData, RealData]:
    """Images of the training part, and what a proof may be judged on beside them.

    Args:
        source: A built-in model of digits.
        data: As for ``digit_data``.
        real: What ``digit_data`` gave.
        rows: About as many training images, spread over all of them.

    Returns:
        Training images, and test images: ``real`` itself, or what of the bundled digits is
        no training image.
    """
    from models.data import DIGITS_FOR_TEST, digits, load_mnist

    folder = _mnist_folder(data)
    if folder is not None:
        training = _spread(load_mnist(folder, train=True), rows)
        return _prepared(source, "MNIST training images", training), real
    every = digits()
    return (
        _prepared(source, f"training images of {_DIGITS}", _spread(every[:-DIGITS_FOR_TEST], rows)),
        _prepared(source, f"{_DIGITS}, test part", every[-DIGITS_FOR_TEST:]),
    )


def _spread(split: Split, rows: int) -> Split:
    return split[:: max(1, len(split) // rows)]


def _mnist_folder(data: Path | None) -> Path | None:
    from models.data import mnist_at

    folder = mnist_at(data)
    named = data or os.environ.get("TWINPORT_DATA")
    if folder is None and named:
        how = "--data" if data else "TWINPORT_DATA"
        raise NotFound(
            f"{how} names {named}, which has no MNIST/raw files; `twinport train lenet5` "
            "downloads them, without the name the bundled digits are used"
        )
    return folder


def _prepared(source: Source, name: str, split: Split) -> RealData:
    from models.data import prepare

    assert source.preprocessing is not None
    pixels = source.pixels is not None
    images = _pixels(source, split.images) if pixels else prepare(split.images).numpy()
    batch = source.inputs[0].shape[0]
    if isinstance(batch, int):
        images = _in_calls(images, batch)
    return RealData(
        name, {source.preprocessing.input: images}, split.labels, source.output_names[0]
    )


def _pixels(source: Source, images: Array) -> Array:
    """``[n, height, width, 1]`` as they are, or as near as the sizes that are taken come to it."""
    from PIL import Image

    sides = []
    for axis, own in zip(source.inputs[0].shape[1:3], images.shape[1:], strict=True):
        low, high = (axis, axis) if isinstance(axis, int) else range_of(axis, source.ranges)
        sides.append(min(max(own, low), high))
    if sides != list(images.shape[1:]):
        resized = [
            np.asarray(Image.fromarray(image).resize((sides[1], sides[0]))) for image in images
        ]
        images = np.stack(resized)
    return images[..., np.newaxis]


def _in_calls(rows: Array, batch: int) -> Array:
    """``[calls, batch, ...]``; the last call is filled up with the first rows."""
    calls = -(-len(rows) // batch)
    return rows[np.arange(calls * batch) % len(rows)].reshape(calls, batch, *rows.shape[1:])


def _from_npz(source: Source, path: Path) -> RealData:
    if not path.is_file():
        raise NotFound(f"samples {path} do not exist; give an .npz with an array for each input")
    loaded = load_arrays(path)
    # An .npy is one array without a name.
    arrays = loaded if isinstance(loaded, dict) else {}
    wanted = [spec.name for spec in source.inputs]
    if sorted(arrays) != sorted(wanted):
        raise InvalidInput(
            f"{path.name} holds {', '.join(sorted(arrays)) or 'nothing'}; "
            f"the model takes {', '.join(wanted)}"
        )
    whole = shared_batch_axis(source.inputs) is None
    if whole:
        arrays = _calls(arrays, source)
    sizes: dict[str, int] = {}
    for spec in source.inputs:
        array = arrays[spec.name]
        if array.size == 0:
            raise InvalidInput(f"{path.name} holds no rows of '{spec.name}'; give at least one")
        check_array(array[0] if whole and array.ndim else array, spec, sizes)
    return RealData(path.name, arrays)


def _calls(arrays: Mapping[str, Array], source: Source) -> dict[str, Array]:
    """``[calls, ...]`` for each input; arrays of the inputs' own rank are one call."""
    own = all(arrays[spec.name].ndim == len(spec.shape) for spec in source.inputs)
    return {name: array[np.newaxis] if own else array for name, array in arrays.items()}
