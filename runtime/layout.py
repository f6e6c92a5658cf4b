"""Where things lie in a model repository, and how a version comes in whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.errors import InvalidInput, NotFound, RepositoryError

CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
FAILED_FOLDER = "failed"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_model_name(name: str) -> str:
    """Give the name back if it may be a folder and a model.

    Raises:
        InvalidInput: It is empty, starts with a dot, or holds a separator or a space.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"model name {name!r} cannot be used; letters, digits, '_', '-' and '.' only"
        )
    return name


def model_names(repository: Path) -> list[str]:
    """Names of all folders that may be models, sorted.

    Raises:
        NotFound: The repository is not a folder.
    """
    if not repository.is_dir():
        raise NotFound(f"the repository {repository} is not a folder; give the one exported to")
    folders = (item for item in repository.iterdir() if item.is_dir())
    return sorted(folder.name for folder in folders if is_served_name(folder.name))


def is_served_name(name: str) -> bool:
    """Whether a folder of this name in a repository may be a model; more may than are exported.

    Hidden folders are none, nor those whose names no client could send.
    """
    plain = bool(name) and Path(name).name == name
    return plain and name.isprintable() and not name.startswith(".")


def version_numbers(folder: Path) -> list[int]:
    """The numeric versions of a model's folder, ascending; ``[]`` where it has none.

    Only plain numbers from 1 count (``01`` and ``0`` do not, as in Triton).
    """
    if not folder.is_dir():
        return []
    names = (item.name for item in folder.iterdir() if item.is_dir())
    return sorted(int(name) for name in names if re.fullmatch(r"[1-9][0-9]*", name))


def next_version(folder: Path) -> int:
    """One more than the highest version, failed ones included."""
    taken = version_numbers(folder) + version_numbers(folder / FAILED_FOLDER)
    return max(taken, default=0) + 1


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A new folder beside the versions of ``folder``; what is left of it goes away at the end.

    Fill it, then ``publish`` it. An exception leaves the repository as it was: the staging
    folder goes, and so do parents that were made for it.

    Raises:
        RepositoryError: The folder cannot be made or written.
    """
    made = _missing_parents(folder)
    staging = folder / f".staging-{secrets.token_hex(4)}"
    try:
        staging.mkdir(parents=True)
    except OSError as error:
        _remove_empty(made)
        raise RepositoryError(
            f"the repository folder {folder} cannot be written: {error.strerror or error}"
        ) from error
    try:
        yield staging
    except OSError as error:
        raise RepositoryError(f"writing to {folder} failed: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        _remove_empty(made)


def publish(staging: Path, folder: Path, version: int, *, failed: bool = False) -> Path:
    """Rename a filled staging folder into place; a reader never meets half of it.

    Raises:
        RepositoryError: The version is there already (another export took the number).
    """
    parent = folder / FAILED_FOLDER if failed else folder
    target = parent / str(version)
    for item in staging.rglob("*"):
        if item.is_file():
            _flush(item)
    parent.mkdir(exist_ok=True)
    try:
        staging.rename(target)
    except OSError as error:
        raise RepositoryError(
            f"version {version} of {folder.name} cannot be put in place: "
            f"{error.strerror or error}; export again"
        ) from error
    _flush(parent)
    return target


def check_target(path: Path, what: str, endings: Collection[str]) -> None:
    """Refuse a file that cannot be written, before there is work.

    Args:
        path: The file.
        what: It is to be, for the error.
        endings: Those it may have, in lower case.

    Raises:
        InvalidInput: Another ending, there is no such folder or nothing may be written there,
            or it is a folder itself.
    """
    if path.suffix.lower() not in endings:
        raise InvalidInput(f"the {what} {path} has another ending; wanted {', '.join(endings)}")
    if not path.parent.is_dir():
        raise InvalidInput(f"there is no folder {path.parent} for the {what}; make it first")
    if path.is_dir():
        raise InvalidInput(f"the {what} {path} is a folder; wanted a file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InvalidInput(f"the {what} {path} cannot be written: {os.strerror(errno.EACCES)}")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a small file so that readers see the old or the new one, never a part."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_bytes(content.encode() if isinstance(content, str) else content)
        _flush(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _missing_parents(folder: Path) -> list[Path]:
    chain = [folder, *folder.parents]
    return [item for item in chain if not item.exists()]


def _remove_empty(folders: list[Path]) -> None:
    """Deepest first; one that holds anything by now stays."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def _flush(path: Path) -> None:
    """Make sure that the rename does not reach the disk before the data."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
