"""System shared memory: the calls that register regions, and requests that name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from protos import (
    InferParameter,
    SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse,
    SystemSharedMemoryStatusRequest,
    SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest,
    SystemSharedMemoryUnregisterResponse,
)
from runtime.errors import InvalidInput, NotFound
from runtime.service.call import Call, Unary, in_time, parsed
from runtime.service.regions import LARGEST, Place, Regions

REGION = "shared_memory_region"
BYTE_SIZE = "shared_memory_byte_size"
OFFSET = "shared_memory_offset"

Parameters = Mapping[str, InferParameter]


class Everywhere(Protocol):
    """Changes the regions of all processes of a server, this one too, before it returns.

    Both raise what ``Regions`` raises, and Unavailable where nobody answers.
    """

    async def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """See ``Regions.register``."""
        ...

    async def unregister(self, name: str) -> None:
        """See ``Regions.unregister``."""
        ...


class SharedMemory:
    """The regions of one server."""

    def __init__(self, everywhere: Everywhere | None = None) -> None:
        """Know none yet.

        Args:
            everywhere: Takes changes, where the server is one of several processes.
        """
        self.regions = Regions()
        self._everywhere = everywhere

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
        region = self.regions.get(name)
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

    async def _on_register(self, payload: bytes, call: Call) -> bytes:
        request = parsed(SystemSharedMemoryRegisterRequest, payload)
        wanted = request.name, request.key, request.offset, request.byte_size
        if self._everywhere is None:
            self.regions.register(*wanted)
        else:
            await in_time(self._everywhere.register(*wanted), call)
        return SystemSharedMemoryRegisterResponse().SerializeToString()

    async def _on_status(self, payload: bytes, _call: Call) -> bytes:
        response = SystemSharedMemoryStatusResponse()
        for region in self.regions.listed(parsed(SystemSharedMemoryStatusRequest, payload).name):
            status = response.regions[region.name]
            status.name, status.key = region.name, region.key
            status.offset, status.byte_size = region.offset, region.byte_size
        return response.SerializeToString()

    async def _on_unregister(self, payload: bytes, call: Call) -> bytes:
        name = parsed(SystemSharedMemoryUnregisterRequest, payload).name
        if self._everywhere is None:
            self.regions.unregister(name)
        else:
            await in_time(self._everywhere.unregister(name), call)
        return SystemSharedMemoryUnregisterResponse().SerializeToString()


def _size(parameters: Parameters, name: str, what: str) -> int:
    if name not in parameters:
        return 0
    parameter = parameters[name]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if not 0 <= value <= LARGEST:
        raise InvalidInput(f"{what} has a {name} that is no whole number of at least 0")
    return int(value)
