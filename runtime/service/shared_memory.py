"""System shared memory: regions that clients register, read and written on their word.

A key is the name of one object below ``/dev/shm`` and never leads anywhere else. Data is
copied with ``pread`` and ``pwrite``: a mapping of an object that its client makes shorter
afterwards would end the server's process (SIGBUS), and an input could change between its
check and its use.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protos import (
    InferParameter,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse,
    SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse,
)
from runtime.errors import AlreadyExists, InvalidInput, NotFound, ResourceExhausted, Unimplemented
from runtime.service.call import Call, Unary, parsed
from runtime.tensor_bytes import check_strings
from runtime.tensors import DType, format_shape

REGION = "shared_memory_region"
BYTE_SIZE = "shared_memory_byte_size"
OFFSET = "shared_memory_offset"
MAX_REGIONS = 1024
"""Each holds a file open."""
_FOLDER = Path("/dev/shm")
_LARGEST = 2**63 - 1

Parameters = Mapping[str, InferParameter]


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


@dataclass(frozen=True)
class Region:
    """A part of an object under the name that a client gave it; offsets and sizes in bytes."""

    name: str
    key: str
    offset: int
    byte_size: int
    object: _Object


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


class SharedMemory:
    """The regions of one server."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def handlers(self) -> dict[str, Unary]:
        """The calls of the protocol by name."""
        return {
            "SystemSharedMemoryRegister": self._on_register,
            "SystemSharedMemoryStatus": self._on_status,
            "SystemSharedMemoryUnregister": self._on_unregister,
        }

    def place(self, parameters: Parameters, what: str) -> Place:
        """Where the parameters of a tensor say that its data is.

        Args:
            parameters: Of the tensor; the region is among them.
            what: The tensor for the error (``input 'image'``).

        Raises:
            NotFound: No such region.
            InvalidInput: Size or offset are missing, or lead out of the region.
        """
        name = parameters[REGION].string_param
        region = self._regions.get(name)
        if region is None:
            raise NotFound(
                f"{what} is in the shared memory region '{name[:80]}', which is not registered"
            )
        byte_size, offset = _size(parameters, BYTE_SIZE, what), _size(parameters, OFFSET, what)
        if BYTE_SIZE not in parameters:
            raise InvalidInput(f"{what} has {REGION} without {BYTE_SIZE}; give both")
        if offset + byte_size > region.byte_size:
            raise InvalidInput(
                f"{what} has {byte_size} bytes at offset {offset}; the shared memory region "
                f"'{name}' ends at {region.byte_size}"
            )
        return Place(region, offset, byte_size)

    def close(self) -> None:
        """Forget every region."""
        self._regions.clear()

    async def _on_register(self, payload: bytes, _call: Call) -> bytes:
        request = parsed(SystemSharedMemoryRegisterRequest, payload)
        if not request.name:
            raise InvalidInput("the shared memory region has no name; give it one")
        if request.name in self._regions:
            raise AlreadyExists(
                f"shared memory region '{request.name[:80]}' is registered already; "
                "unregister it first"
            )
        if len(self._regions) >= MAX_REGIONS:
            raise ResourceExhausted(
                f"{MAX_REGIONS} shared memory regions are registered; unregister some"
            )
        self._regions[request.name] = _opened(request)
        return SystemSharedMemoryRegisterResponse().SerializeToString()

    async def _on_status(self, payload: bytes, _call: Call) -> bytes:
        name = parsed(SystemSharedMemoryStatusRequest, payload).name
        if name and name not in self._regions:
            raise NotFound(f"shared memory region '{name[:80]}' is not registered")
        response = SystemSharedMemoryStatusResponse()
        for region in [self._regions[name]] if name else self._regions.values():
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response.SerializeToString()

    async def _on_unregister(self, payload: bytes, _call: Call) -> bytes:
        name = parsed(SystemSharedMemoryUnregisterRequest, payload).name
        if name:
            self._regions.pop(name, None)  # one that is not there is fine, as in Triton
        else:
            self.close()
        return SystemSharedMemoryUnregisterResponse().SerializeToString()


def _opened(request: SystemSharedMemoryRegisterRequest) -> Region:
    """Open the object of a key and check that the region lies in it."""
    key, end = request.key, request.offset + request.byte_size
    name = key.removeprefix("/")
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise InvalidInput(
            f"shared memory key '{key[:80]}' is no name of an object; wanted the form '/name'"
        )
    if not _FOLDER.is_dir():
        raise Unimplemented(f"this system has no {_FOLDER}; send the data in the request")
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        opened = _Object(os.open(_FOLDER / name, flags))
    except OSError as error:
        raise InvalidInput(
            f"shared memory object '{key[:80]}' cannot be opened: {error.strerror or error}"
        ) from error
    if not stat.S_ISREG(os.fstat(opened.descriptor).st_mode):
        raise InvalidInput(f"'{key[:80]}' is no shared memory object")
    if not request.byte_size or end > min(opened.size, _LARGEST):
        raise InvalidInput(
            f"region '{request.name[:80]}' has {request.byte_size} bytes at offset "
            f"{request.offset}; wanted at least 1 within the {opened.size} of object '{key[:80]}'"
        )
    return Region(request.name, key, request.offset, request.byte_size, opened)


def _size(parameters: Parameters, name: str, what: str) -> int:
    if name not in parameters:
        return 0
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if not 0 <= value <= _LARGEST:
        raise InvalidInput(f"{what} has a {name} that is no whole number of at least 0")
    return int(value)
