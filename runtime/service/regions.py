"""Regions of system shared memory: opened, read and written, told to other processes.

A key is the name of one object below ``/dev/shm`` and never leads anywhere else. Data is
copied with ``pread`` and ``pwrite``: a mapping of an object that its client makes shorter
afterwards would end the server's process (SIGBUS), and an input could change between its
check and its use.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from runtime.errors import AlreadyExists, InvalidInput, NotFound, ResourceExhausted, Unimplemented
from runtime.tensor_bytes import check_strings
from runtime.tensors import DType, format_shape

MAX_REGIONS = 1024
"""Each holds a file open."""
LARGEST = 2**63 - 1
_FOLDER = Path("/dev/shm")
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK


class _Object:
    """An open object; closed with the last region or answer that uses it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    @property
    def size(self) -> int:
        """Bytes that it has now."""
        return os.fstat(self.descriptor).st_size

    @property
    def identity(self) -> list[int]:
        """What no other object has, whatever its name and its descriptor."""
        facts = os.fstat(self.descriptor)
        return [facts.st_dev, facts.st_ino]


@dataclass(frozen=True)
class Region:
    """A part of an object under the name that a client gave it; offsets and sizes in bytes.

    ``number`` tells it from one that had its name before.
    """

    name: str
    key: str
    offset: int
    byte_size: int
    object: _Object
    number: int

    def told(self) -> dict[str, Any]:
        """What another process of the same user opens it by; see ``region_from_told``."""
        return {
            "name": self.name, "key": self.key, "offset": self.offset,
            "byte_size": self.byte_size, "number": self.number, "process": os.getpid(),
            "descriptor": self.object.descriptor, "identity": self.object.identity,
        }  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A part of a region, checked to lie in it; ``offset`` counts from the region's start."""

    region: Region
    offset: int
    byte_size: int

    def read_tensor(self, dtype: DType, shape: Sequence[int], what: str) -> bytes:
        """Everything in it, once it is known to be a tensor.

        Args:
            dtype: The type of its elements.
            shape: Its shape.
            what: The tensor for the error (``input 'image'``).

        Raises:
            InvalidInput: Its size is another one, its elements do not fill it, or the object
                was made shorter since it was registered.
        """
        wanted = math.prod(shape) * dtype.size
        if dtype.size == 0:
            check_strings(self._read, self.byte_size, shape, what)
        elif self.byte_size != wanted:
            raise InvalidInput(
                f"{what} has {self.byte_size} bytes; "
                f"{dtype.wire} {format_shape(tuple(shape))} takes {wanted}"
            )
        return self._read(0, self.byte_size)

    def _read(self, start: int, left: int) -> bytes:
        """So many bytes from ``start`` on, which are all in it."""
        start += self.region.offset + self.offset
        parts: list[bytes] = []
        while left:
            part = os.pread(self.region.object.descriptor, left, start)
            if not part:
                raise self._shorter()
            parts.append(part)
            start, left = start + len(part), left - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data: bytes) -> None:
        """Write ``data``, which fits, to its start.

        Raises:
            InvalidInput: The object was made shorter since it was registered.
        """
        start = self.region.offset + self.offset
        if start + len(data) > self.region.object.size:
            raise self._shorter()
        rest = memoryview(data)
        while rest:
            written = os.pwrite(self.region.object.descriptor, rest, start)
            start, rest = start + written, rest[written:]

    def check_fits(self, byte_size: int, output: str) -> None:
        """Refuse an answer that is larger than its place.

        Raises:
            InvalidInput: It is; the text has both sizes.
        """
        if byte_size > self.byte_size:
            raise InvalidInput(
                f"output '{output}' takes {byte_size} bytes; its place in the shared memory "
                f"region '{self.region.name}' has {self.byte_size}"
            )

    def _shorter(self) -> InvalidInput:
        return InvalidInput(
            f"shared memory object '{self.region.key}' of region '{self.region.name}' was made "
            "shorter than what was registered; register it again"
        )


class Regions:
    """The regions of a server by name, as this process knows them."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}
        self._numbers = count()

    def get(self, name: str) -> Region | None:
        """The region of a name; none where there is none."""
        return self._regions.get(name)

    def listed(self, name: str = "") -> list[Region]:
        """One region, or all where no name is given.

        Raises:
            NotFound: There is no such region.
        """
        if not name:
            return list(self._regions.values())
        if name not in self._regions:
            raise NotFound(f"shared memory region '{name[:80]}' is not registered")
        return [self._regions[name]]

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a region.

        Raises:
            InvalidInput: Name or key are none, or the region does not lie in the object.
            AlreadyExists: The name is taken.
            ResourceExhausted: There are too many.
            Unimplemented: The system has no shared memory.
        """
        if not name:
            raise InvalidInput("the shared memory region has no name; give it one")
        if name in self._regions:
            raise AlreadyExists(
                f"shared memory region '{name[:80]}' is registered already; unregister it first"
            )
        if len(self._regions) >= MAX_REGIONS:
            raise ResourceExhausted(
                f"{MAX_REGIONS} shared memory regions are registered; unregister some"
            )
        opened = _opened(key)
        if not byte_size or offset + byte_size > min(opened.size, LARGEST):
            raise InvalidInput(
                f"region '{name[:80]}' has {byte_size} bytes at offset {offset}; "
                f"wanted at least 1 within the {opened.size} of object '{key[:80]}'"
            )
        self._regions[name] = Region(name, key, offset, byte_size, opened, next(self._numbers))

    def unregister(self, name: str = "") -> None:
        """Forget a region, or all where no name is given; one that is not there is fine."""
        if name:
            self._regions.pop(name, None)
        else:
            self._regions.clear()

    def told(self) -> list[dict[str, Any]]:
        """What ``take_over`` of another process takes."""
        return [region.told() for region in self._regions.values()]

    def take_over(self, told: Iterable[Mapping[str, Any]]) -> list[str]:
        """Have what another process has, which holds it open.

        Returns:
            The names of those that could not be opened.
        """
        before, self._regions = self._regions, {}
        missing = []
        for each in told:
            known = before.get(each["name"])
            if known is None or known.number != each["number"]:
                known = _region_from_told(each)
            if known is None:
                missing.append(each["name"])
            else:
                self._regions[known.name] = known
        return missing


def _opened(key: str) -> _Object:
    """Open the object of a key."""
    name = key.removeprefix("/")
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise InvalidInput(
            f"shared memory key '{key[:80]}' is no name of an object; wanted the form '/name'"
        )
    if not _FOLDER.is_dir():
        raise Unimplemented(f"this system has no {_FOLDER}; send the data in the request")
    try:
        opened = _Object(os.open(_FOLDER / name, _FLAGS | os.O_NOFOLLOW))
    except OSError as error:
        raise InvalidInput(
            f"shared memory object '{key[:80]}' cannot be opened: {error.strerror or error}"
        ) from error
    if not stat.S_ISREG(os.fstat(opened.descriptor).st_mode):
        raise InvalidInput(f"'{key[:80]}' is no shared memory object")
    return opened


def _region_from_told(told: Mapping[str, Any]) -> Region | None:
    """Open the very object that another process holds open, although its name may be gone."""
    try:
        # Not by its name, under which there may be another object meanwhile.
        path = f"/proc/{told['process']}/fd/{told['descriptor']}"
        opened = _Object(os.open(path, _FLAGS))
    except OSError:
        return None
    if opened.identity != told["identity"]:
        return None
    return Region(
        told["name"], told["key"], told["offset"], told["byte_size"], opened, told["number"]
    )
