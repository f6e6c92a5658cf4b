"""Write a file whole or not at all, and say what is in one."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

from models.errors import WriteProblem


def make_folder(folder: Path) -> None:
    """Make a folder, and find out before the work begins whether it can be written to.

    Raises:
        WriteProblem: It cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _problem(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _problem(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target, to the disk, then rename: a reader meets old or new.

    Raises:
        WriteProblem: The file cannot be written; the old one is as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with beside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise _problem(path, error) from error


def _problem(path: Path, error: OSError) -> WriteProblem:
    reason = error.strerror or str(error)
    return WriteProblem(f"'{path}' cannot be written ({reason}); free it or choose another folder")


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
