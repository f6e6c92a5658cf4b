"""Serialised TensorRT engines as files: which library made them, told from the header.

The libraries are not asked: one that is given a foreign plan, or has no driver under it,
may end the process. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import RepositoryError

HEADER_BYTES = 28
"""As far as the version."""
_LENGTH = slice(16, 24)
_VERSION = slice(24, 28)


@dataclass(frozen=True)
class Flavour:
    """One of the two libraries that build and run engines.

    Attributes:
        name: ``tensorrt`` or ``tensorrt_rtx``; also ``backend`` in ``config.pbtxt``, the
            module that is imported and the extra of ``pip install`` but for the hyphen.
        title: As NVIDIA writes it.
        suffix: Of the model's name in the repository.
        magic: The first four bytes of its plans.
        states_length: Whether the header is known to hold the length of the file.
        runs_older: Whether it runs version-compatible plans of older versions.
    """

    name: str
    title: str
    suffix: str
    magic: bytes
    states_length: bool = False
    runs_older: bool = False

    @property
    def extra(self) -> str:
        """The extra that brings it."""
        return self.name.replace("_", "-")


FLAVOURS = {
    flavour.name: flavour
    for flavour in (
        Flavour("tensorrt", "TensorRT", "_trt", b"ftrt", runs_older=True),
        Flavour("tensorrt_rtx", "TensorRT-RTX", "_rtx", b"vtrt", states_length=True),
    )
}
_BY_MAGIC = {flavour.magic: flavour for flavour in FLAVOURS.values()}


@dataclass(frozen=True)
class PlanHeader:
    """What the first bytes of a plan say."""

    flavour: Flavour
    version: tuple[int, int, int, int]
    """Of the library that built it: major, minor, patch, build."""

    @property
    def title(self) -> str:
        """Library and version, as people write them."""
        return f"{self.flavour.title} {'.'.join(map(str, self.version))}"


def header_version(version: str) -> tuple[int, int, int, int]:
    """A library's version as a plan's header has it: four numbers of a byte each."""
    numbers = [int(part) & 0xFF for part in version.split(".")[:4] if part.isdecimal()]
    major, minor, patch, build = (*numbers, 0, 0, 0, 0)[:4]
    return major, minor, patch, build


def read_header(path: Path) -> PlanHeader:
    """Read the header of a plan and hold the file's length against it.

    Raises:
        RepositoryError: The file cannot be read, is no plan, or is cut.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
        size = path.stat().st_size
    except OSError as error:
        raise RepositoryError(f"{path} cannot be read: {error.strerror or error}") from error
    flavour = _BY_MAGIC.get(head[:4])
    if flavour is not None and len(head) < HEADER_BYTES:
        raise RepositoryError(f"{path} has {size} bytes; the engine is cut, build it again")
    if flavour is None:
        raise RepositoryError(
            f"{path} is no TensorRT engine: it begins with {head[:4]!r}, "
            f"wanted {' or '.join(repr(magic) for magic in _BY_MAGIC)}; build it again"
        )
    major, minor, patch, build = head[_VERSION]
    stated = int.from_bytes(head[_LENGTH], "little")
    if flavour.states_length and size != stated:
        raise RepositoryError(
            f"{path} has {size:,} bytes, its header says {stated:,}; "
            "the engine is cut or was changed, build it again"
        )
    return PlanHeader(flavour, (major, minor, patch, build))


def check_plan(path: Path, flavour: Flavour) -> PlanHeader:
    """Read the header of a plan that ``flavour`` is to run.

    Raises:
        RepositoryError: The file is no sound plan, or one of the other library.
    """
    header = read_header(path)
    if header.flavour != flavour:
        raise RepositoryError(
            f"{path} is an engine of {header.flavour.title}, config.pbtxt wants {flavour.title}; "
            f"write backend: '{header.flavour.name}', or build the engine again"
        )
    return header
