"""Fetch MNIST with torchvision: quietly, in bounded time, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from torchvision.datasets import MNIST

from models.errors import DataMissing

MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SILENCE_S = 10.0
"""A mirror that says nothing for so long is given up."""


def raw_folder(folder: Path) -> Path:
    """Where torchvision keeps the four files of a data folder."""
    return folder / "MNIST" / "raw"


def download_mnist(folder: Path) -> None:
    """Download the four files into ``folder`` and rename them into place.

    Packed files (``.gz``) that are there already are used.

    Raises:
        DataMissing: No mirror answers, or the folder cannot be written.
    """
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Beside the target: an interrupted unpacking leaves a short file that
        # torchvision would take for the data set ever after.
        with tempfile.TemporaryDirectory(prefix=".mnist-", dir=folder) as beside:
            _fetch(Path(beside), raw_folder(folder))
    except (OSError, RuntimeError, HTTPException) as error:
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise DataMissing(
            f"MNIST is not in '{folder}' and cannot be downloaded ({_reason(error)}); put its "
            f"four files into '{raw_folder(folder)}', or name a folder that has them in "
            "MNIST/raw with --data or TWINPORT_DATA"
        ) from error


def _fetch(beside: Path, target: Path) -> None:
    fresh = raw_folder(beside)
    fresh.mkdir(parents=True)
    for packed in target.glob("*.gz"):
        shutil.copy(packed, fresh)
    with _patience(SILENCE_S), contextlib.redirect_stderr(io.StringIO()):
        MNIST(str(beside), download=True)
    target.mkdir(parents=True, exist_ok=True)
    for name in MNIST_FILES:
        os.replace(fresh / name, target / name)


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Bound every socket operation inside; torchvision sets no limit of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """The last line: torchvision lists the mirrors above it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
