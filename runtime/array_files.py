"""NumPy's files of arrays, read without trust: what is wrong with one is a single line."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from runtime.errors import InvalidInput
from runtime.tensors import Array

BROKEN = (
    OSError, ValueError, EOFError, SyntaxError, RuntimeError, MemoryError, AttributeError,
    zipfile.BadZipFile, zlib.error, tokenize.TokenError,
)  # fmt: skip
"""What NumPy and what it reads with raise at a file that is none of theirs, or damaged."""


def load_arrays(path: Path) -> Array | dict[str, Array]:
    """The array of an ``.npy`` file, or those of an ``.npz`` file by name; no pickles.

    Args:
        path: The file.

    Raises:
        InvalidInput: It holds something else, or is damaged.
    """
    try:
        with path.open("rb") as file:  # NumPy leaves a file open that is no archive
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            arrays = {name: loaded[name] for name in loaded.files}
    except BROKEN as error:
        # NumPy would have it loaded unsafely, which nobody should.
        why = "it holds no plain arrays" if "pickle" in str(error) else " ".join(str(error).split())
        raise InvalidInput(f"{path} cannot be read as NumPy's {path.suffix}: {why}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise InvalidInput(f"{path} holds {name}, which is no array")
    return arrays
