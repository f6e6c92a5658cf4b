"""Pictures as files: in their place whole, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import ExportError, InvalidInput


def check_picture(picture: Path, suffixes: Sequence[str]) -> None:
    """Make sure of what can be told before anything is drawn.

    Raises:
        InvalidInput: It has none of the suffixes.
        ExportError: There is no folder that it can be written to.
    """
    if picture.suffix.lower() not in suffixes:
        wanted = " or ".join(suffixes)
        raise InvalidInput(f"'{picture}' has another suffix; wanted a picture's, {wanted}")
    if not picture.parent.is_dir():
        raise ExportError(f"'{picture}' cannot be written: '{picture.parent}' is no folder")
    if picture.is_dir() or not os.access(picture.parent, os.W_OK | os.X_OK):
        raise ExportError(f"'{picture}' cannot be written; choose another place")


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A place beside the target to write to; renamed to it when the block ends well.

    Raises:
        ExportError: The file cannot be written; what was there before is as it was.
    """
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        draft.replace(target)
    except OSError as error:
        raise ExportError(f"'{target}' cannot be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)
