"""Memory of an engine's inputs and outputs: pinned on the host, its twin on the device.

Buffers grow to the largest size met and are used again. Whoever keeps addresses (a CUDA
graph) asks ``moves``: it changes when one of them did.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.cuda import DeviceMemory, PinnedMemory, Stream
from runtime.backends.trt_engine import Binding, Shape
from runtime.backends.trt_library import Library
from runtime.errors import TwinportError
from runtime.tensors import Array

if TYPE_CHECKING:
    import tensorrt as trt

logger = logging.getLogger(__name__)

_SMALLEST = 256
"""Bytes; TensorRT wants an address for an empty tensor too."""


class Buffer:
    """One tensor's memory on both sides; only on the host where the engine reads it there."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._host: PinnedMemory | None = None
        self._device: DeviceMemory | None = None

    @property
    def address(self) -> int:
        """Where the engine finds it."""
        memory = self._host if self._binding.on_host else self._device
        assert memory is not None, "room is made before the address is asked for"
        return memory.address

    def holds(self, shape: Shape) -> bool:
        """Whether there is room for a tensor of ``shape``."""
        return self._host is not None and self._host.size >= self._bytes(shape)

    def grow(self, shape: Shape, *, on_device: bool) -> None:
        """Make room for a tensor of ``shape``; there is none where this fails."""
        self.close()
        # The next power of two, so that growing row by row does not move it each time.
        room = max(_SMALLEST, 1 << (self._bytes(shape) - 1).bit_length())
        if on_device and not self._binding.on_host:
            self._device = DeviceMemory(room)
        self._host = PinnedMemory(room)

    def fill(self, array: Array) -> None:
        """Write the host's side; the device gets it with ``to_device``."""
        self.view(array.shape)[...] = array

    def view(self, shape: Shape) -> Array:
        """The host's side as an array; the next call overwrites it."""
        assert self._host is not None, "room is made first"
        return self._host.array(self._binding.dtype, shape)

    def to_device(self, stream: Stream, shape: Shape) -> None:
        """Queue the copy of an input."""
        size = self._bytes(shape)
        if self._device is not None and self._host is not None and size:
            stream.to_device(self._device, self._host, size)

    def to_host(self, stream: Stream, shape: Shape, source: DeviceMemory | None = None) -> None:
        """Queue the copy of an output, from its own memory where no other is given."""
        memory, size = source or self._device, self._bytes(shape)
        if memory is not None and self._host is not None and size:
            stream.to_host(self._host, memory, size)

    def _bytes(self, shape: Shape) -> int:
        return int(np.prod(shape, dtype=np.int64)) * self._binding.dtype.itemsize

    def close(self) -> None:
        """Give both sides back."""
        for memory in (self._host, self._device):
            if memory is not None:
                memory.close()
        self._host = self._device = None


class Buffers:
    """The buffers of all inputs and outputs by name."""

    def __init__(self, bindings: Iterable[Binding]) -> None:
        self._buffers = {binding.name: Buffer(binding) for binding in bindings}
        self.moves = 0
        """Counts how often an address changed."""

    def __getitem__(self, name: str) -> Buffer:
        return self._buffers[name]

    def reserve(self, name: str, shape: Shape, *, on_device: bool = True) -> None:
        """Make room for one tensor; on the host alone where its device memory is another's."""
        buffer = self._buffers[name]
        if not buffer.holds(shape):
            # What is there goes first; who keeps addresses has to know though the rest fails.
            self.moves += 1
            buffer.grow(shape, on_device=on_device)

    def close(self) -> None:
        """Give everything back."""
        for buffer in self._buffers.values():
            buffer.close()


class Allocation:
    """Memory of outputs whose size only the run itself tells; the engine asks for it."""

    def __init__(self) -> None:
        self._memory: dict[str, DeviceMemory] = {}
        self._shapes: dict[str, Shape] = {}
        self.failure: TwinportError | None = None
        """Why no memory could be given; an exception may not pass through the library."""

    def begin(self) -> None:
        """Forget what the last run told."""
        self._shapes.clear()
        self.failure = None

    def give(self, name: str, size: int) -> int:
        """Address of at least ``size`` bytes; 0 where there is none."""
        memory = self._memory.get(name)
        if memory is not None and memory.size >= size:
            return memory.address
        try:
            if memory is not None:
                del self._memory[name]
                memory.close()
            memory = DeviceMemory(max(_SMALLEST, size))
        except TwinportError as error:
            self.failure = error
            return 0
        self._memory[name] = memory
        return memory.address

    def tell(self, name: str, shape: Shape) -> None:
        """The shape of an output is known now."""
        self._shapes[name] = shape

    def result(self, name: str) -> tuple[DeviceMemory, Shape]:
        """Where an output lies, and its shape.

        Raises:
            TwinportError: The engine asked for no memory or told no shape.
        """
        if name not in self._memory or name not in self._shapes:
            raise TwinportError(f"the engine gave no memory or no shape for output '{name}'")
        return self._memory[name], self._shapes[name]

    def close(self) -> None:
        """Give everything back."""
        for memory in self._memory.values():
            memory.close()
        self._memory.clear()


def output_allocator(library: Library, allocation: Allocation) -> trt.IOutputAllocator:
    """An allocator as the library wants it, over ``allocation``."""
    if TYPE_CHECKING:
        from tensorrt import IOutputAllocator
    else:
        IOutputAllocator = library.IOutputAllocator  # noqa: N806

    class _Allocator(IOutputAllocator):
        def __init__(self) -> None:
            # Its class is one of C++: without this call it is no object there.
            IOutputAllocator.__init__(self)

        def reallocate_output(
            self, tensor_name: str, memory: Any, size: int, alignment: int
        ) -> int:
            # cudaMalloc aligns to more than any engine asks for.
            return allocation.give(tensor_name, size)

        def reallocate_output_async(
            self, tensor_name: str, memory: Any, size: int, alignment: int, stream: int
        ) -> int:
            return allocation.give(tensor_name, size)

        def notify_shape(self, tensor_name: str, shape: trt.Dims) -> None:
            allocation.tell(tensor_name, tuple(shape))

    return _Allocator()
