"""Digits to train on and to prove with: MNIST, scikit-learn's digits, and their transforms."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import transforms
from torchvision.datasets import MNIST

from models.download import MNIST_FILES, download_mnist, raw_folder
from models.errors import DataMissing, UnknownName
from models.framing import frame_glyphs

SIDE = 32
MEAN = 0.1307
STD = 0.3081
DATASETS = ("mnist", "digits")
DIGITS_FOR_TEST = 360  # the last fifth; its writers are not those of the first four

UInt8Array = NDArray[np.uint8]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Images with their labels.

    Attributes:
        images: ``[n, 28, 28]``, white on black.
        labels: ``[n]``, 0 to 9.
    """

    images: UInt8Array
    labels: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> Split:
        return Split(self.images[part], self.labels[part])


@dataclass(frozen=True)
class DataSet:
    """A training and a test part under one name."""

    name: str
    train: Split
    test: Split

    @property
    def sha256(self) -> str:
        """Of all images and labels, training part first; no file format is in it."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.images).tobytes())
            digest.update(np.ascontiguousarray(split.labels).tobytes())
        return digest.hexdigest()


def load_dataset(
    name: str, data: Path | None = None, notify: Callable[[str], None] = lambda text: None
) -> DataSet:
    """Load ``mnist`` or ``digits`` into memory.

    Args:
        name: One of ``DATASETS``.
        data: The folder for MNIST, see ``find_mnist``.
        notify: Called with one line before a download begins.

    Raises:
        UnknownName: There is no such data set.
        DataMissing: MNIST is not here and cannot be downloaded.
    """
    if name == "mnist":
        folder = find_mnist(data, notify)
        return DataSet(name, load_mnist(folder, train=True), load_mnist(folder, train=False))
    if name == "digits":
        every = digits()
        return DataSet(name, every[:-DIGITS_FOR_TEST], every[-DIGITS_FOR_TEST:])
    raise UnknownName(f"there is no data set '{name}'; use one of {', '.join(DATASETS)}")


def mnist_at(data: Path | None = None) -> Path | None:
    """The folder that has MNIST, or None; nothing is downloaded.

    Args:
        data: The folder to look in; else ``TWINPORT_DATA`` names it, else it is ``./data``.
    """
    folder = _data_folder(data)
    there = all((raw_folder(folder) / name).is_file() for name in MNIST_FILES)
    return folder if there else None


def find_mnist(data: Path | None = None, notify: Callable[[str], None] = lambda text: None) -> Path:
    """The folder that has MNIST, after a download where it has none yet.

    Raises:
        DataMissing: MNIST is not there and cannot be downloaded; the text says what to do.
    """
    if (found := mnist_at(data)) is not None:
        return found
    folder = _data_folder(data)
    notify(f"MNIST is not in '{folder}'; downloading it")
    download_mnist(folder)
    return folder


def _data_folder(data: Path | None) -> Path:
    return data if data is not None else Path(os.environ.get("TWINPORT_DATA") or "data")


def load_mnist(folder: Path, *, train: bool) -> Split:
    """Read one part of MNIST from a data folder.

    Raises:
        DataMissing: The files are not there, or are damaged.
    """
    try:
        part = MNIST(str(folder), train=train, download=False)
    except (OSError, RuntimeError, ValueError, AssertionError, LookupError) as error:
        raise DataMissing(
            f"MNIST cannot be read from '{raw_folder(folder)}' ({type(error).__name__}); delete "
            "its files so that they are downloaded again, or put whole ones there"
        ) from error
    return Split(part.data.numpy(), part.targets.numpy().astype(np.int64))


def digits() -> Split:
    """scikit-learn's 1,797 bundled digits, framed as MNIST frames its own; no network."""
    bundle = load_digits()
    return Split(frame_glyphs(bundle.images / 16.0), bundle.target.astype(np.int64))


def lenet_transform() -> transforms.Compose:
    """The source's transforms for a PIL image: 32x32, [0, 1], normalised."""
    return transforms.Compose(
        [
            transforms.Resize((SIDE, SIDE)),
            transforms.ToTensor(),
            transforms.Normalize((MEAN,), (STD,)),
        ]
    )


def prepare(images: UInt8Array) -> Tensor:
    """What ``lenet_transform`` makes of each image, to the bit, for all at once.

    Args:
        images: ``[n, height, width]``.

    Returns:
        float32 ``[n, 1, 32, 32]``.
    """
    return normalised(resized(images).float().div(255))


def resized(images: UInt8Array) -> Tensor:
    """``[n, height, width]`` to uint8 ``[n, 1, 32, 32]``, as torchvision resizes a PIL image."""
    pixels = np.empty((len(images), 1, SIDE, SIDE), np.uint8)
    for index, image in enumerate(images):
        small = Image.fromarray(image)
        pixels[index, 0] = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    return torch.from_numpy(pixels)


def normalised(scaled: Tensor) -> Tensor:
    """``(x - mean) / std`` of pixels in [0, 1]; any shape."""
    return (scaled - MEAN) / STD


def mean_and_std(dataset: Iterable[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, over all pixels of a data set.

    One pass in float64, one item in memory at a time; the moments of the items are
    joined as in Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", 1979.

    Args:
        dataset: Gives tensors ``[channels, height, width]``, alone or first in a tuple;
            the sizes may differ, the channels may not.

    Returns:
        Means and (population) deviations, a number per channel, in the data's unit.

    Raises:
        DataMissing: The data set is empty, or an item is no such tensor.
    """
    count, mean, squares = 0, torch.zeros(0), torch.zeros(0)
    for index, image in enumerate(_images_of(dataset)):
        if not isinstance(image, Tensor) or image.ndim != 3:
            raise DataMissing(
                f"item {index} of the data set is a {_kind(image)}; wanted a tensor [channels, "
                "height, width]; give the data set ToTensor() as its transform"
            )
        pixels = image.to(torch.float64).flatten(1)  # [channels, pixels]
        if count == 0:
            mean = squares = torch.zeros(len(pixels), dtype=torch.float64)
        if len(pixels) != len(mean):
            raise DataMissing(f"item {index} has {len(pixels)} channels; item 0 has {len(mean)}")
        new, here = pixels.shape[1], pixels.mean(1)
        apart = here - mean
        total = count + new
        squares = squares + (pixels - here[:, None]).square().sum(1)
        squares = squares + apart.square() * (count * new / total)
        mean, count = mean + apart * (new / total), total
    if count == 0:
        raise DataMissing("the data set is empty; mean and deviation need at least one image")
    return tuple(mean.tolist()), tuple((squares / count).sqrt().tolist())


def _images_of(dataset: Iterable[Any]) -> Iterator[Any]:
    """The images of a data set with an index, or of one that is only iterated."""
    if hasattr(dataset, "__getitem__") and isinstance(dataset, Sized):
        items: Iterable[Any] = (dataset[index] for index in range(len(dataset)))
    else:
        items = dataset
    for item in items:
        yield item[0] if isinstance(item, (tuple, list)) else item


def _kind(value: Any) -> str:
    return f"tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
