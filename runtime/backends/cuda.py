"""CUDA's runtime as far as a backend needs it; the one place that imports cuda-bindings.

Importing this module asks for nothing: the bindings come in with the first call, so that a
machine without them, without a driver or without a GPU can be told so in one line. Device 0
is used always; ``CUDA_VISIBLE_DEVICES`` says which one that is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from runtime.errors import BackendUnavailable, ResourceExhausted, TwinportError
from runtime.tensors import Array

_BINDINGS = "cuda.bindings.runtime"
_DRIVER = "libcuda.so.1"


@dataclass(frozen=True)
class Gpu:
    """The GPU that is used."""

    name: str
    compute_capability: tuple[int, int]

    def __str__(self) -> str:
        major, minor = self.compute_capability
        return f"{self.name} (compute capability {major}.{minor})"


def device_problem() -> str | None:
    """Why no GPU can be used here, in one line; none where one answers.

    Nothing of TensorRT is asked: its lean runtime ends the process without a driver.
    """
    try:
        api = import_module(_BINDINGS)
    except ImportError as error:
        return f"cuda-bindings is missing ({error}); pip install 'cuda-bindings>=13'"
    if not _has_driver():
        return f"no NVIDIA driver is installed ({_DRIVER} is not here)"
    status, count = api.cudaGetDeviceCount()
    if status == api.cudaError_t.cudaErrorNoDevice or (_succeeded(status) and not count):
        return "the NVIDIA driver finds no GPU"
    if not _succeeded(status):
        return f"the GPU cannot be used: {_text(api, status)}"
    return None


def _has_driver() -> bool:
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return False
    return True


def gpu() -> Gpu:
    """Name and compute capability of the GPU.

    Raises:
        BackendUnavailable: There is none that answers.
    """
    problem = device_problem()
    if problem is not None:
        raise BackendUnavailable(problem)
    api = import_module(_BINDINGS)
    properties = _checked("cudaGetDeviceProperties", api.cudaGetDeviceProperties, 0)
    name = bytes(properties.name).split(b"\0", 1)[0].decode(errors="replace")
    return Gpu(name, (int(properties.major), int(properties.minor)))


def _succeeded(status: Any) -> bool:
    return int(status) == 0


def _text(api: Any, status: Any) -> str:
    """CUDA's own words and the name of the error."""
    words = api.cudaGetErrorString(status)[1]
    said = words.decode(errors="replace") if isinstance(words, bytes) else str(words)
    return f"{said} ({getattr(status, 'name', status)})"


def _checked(what: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives besides its status.

    Raises:
        ResourceExhausted: The memory is used up.
        TwinportError: The call failed otherwise; the text has the call and CUDA's words.
    """
    status, *results = call(*arguments)
    if not _succeeded(status):
        api = import_module(_BINDINGS)
        text = f"CUDA failed in {what}: {_text(api, status)}"
        if status == api.cudaError_t.cudaErrorMemoryAllocation:
            raise ResourceExhausted(f"{text}; serve fewer models on this GPU, or smaller batches")
        raise TwinportError(text)
    return results[0] if results else None


class DeviceMemory:
    """Bytes on the GPU; held until closed."""

    def __init__(self, size: int) -> None:
        api = import_module(_BINDINGS)
        self.size = size
        self.address = int(_checked(f"cudaMalloc of {size:,} bytes", api.cudaMalloc, size))

    def close(self) -> None:
        """Give the memory back; calling it twice is allowed."""
        if self.address:
            address, self.address = self.address, 0
            _checked("cudaFree", import_module(_BINDINGS).cudaFree, address)


class PinnedMemory:
    """Page-locked bytes on the host, which the GPU copies from and to by itself."""

    def __init__(self, size: int) -> None:
        api = import_module(_BINDINGS)
        self.size = size
        what = f"cudaHostAlloc of {size:,} bytes"
        self.address = int(_checked(what, api.cudaHostAlloc, size, api.cudaHostAllocDefault))
        self._bytes: Array = np.ctypeslib.as_array(
            (ctypes.c_uint8 * size).from_address(self.address)
        )

    def array(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """The first bytes as an array; no copy, valid until the memory is closed."""
        count = int(np.prod(shape, dtype=np.int64))
        return self._bytes[: count * dtype.itemsize].view(dtype).reshape(shape)

    def close(self) -> None:
        """Give the memory back; calling it twice is allowed."""
        if self.address:
            address, self.address = self.address, 0
            self._bytes = np.empty(0, np.uint8)
            _checked("cudaFreeHost", import_module(_BINDINGS).cudaFreeHost, address)


class Stream:
    """A stream of one's own, which waits for no other."""

    def __init__(self) -> None:
        self._api = import_module(_BINDINGS)
        flags = self._api.cudaStreamNonBlocking
        self._stream = _checked(
            "cudaStreamCreateWithFlags", self._api.cudaStreamCreateWithFlags, flags
        )

    @property
    def handle(self) -> int:
        """As TensorRT takes it."""
        return int(self._stream)

    def to_device(self, target: DeviceMemory, source: PinnedMemory, size: int) -> None:
        """Queue a copy of the first ``size`` bytes."""
        self._copy(target.address, source.address, size, "cudaMemcpyHostToDevice")

    def to_host(self, target: PinnedMemory, source: DeviceMemory, size: int) -> None:
        """Queue a copy of the first ``size`` bytes."""
        self._copy(target.address, source.address, size, "cudaMemcpyDeviceToHost")

    def _copy(self, target: int, source: int, size: int, kind: str) -> None:
        api = self._api
        direction = getattr(api.cudaMemcpyKind, kind)
        what = f"cudaMemcpyAsync of {size:,} bytes"
        _checked(what, api.cudaMemcpyAsync, target, source, size, direction, self._stream)

    def synchronize(self) -> None:
        """Wait until everything that was queued is done."""
        _checked("cudaStreamSynchronize", self._api.cudaStreamSynchronize, self._stream)

    def capture(self, queue: Callable[[], None]) -> Graph:
        """Record what ``queue`` puts on this stream; nothing of it runs yet.

        Raises:
            TwinportError: ``queue`` raised it, or CUDA cannot record what was queued.
        """
        api = self._api
        # What other threads do with the GPU meanwhile is no part of this.
        mode = api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _checked("cudaStreamBeginCapture", api.cudaStreamBeginCapture, self._stream, mode)
        try:
            queue()
        except BaseException:
            # Else the stream could not be used again; its own status says nothing new.
            self._abandon_capture()
            raise
        graph = _checked("cudaStreamEndCapture", api.cudaStreamEndCapture, self._stream)
        try:
            ready = _checked("cudaGraphInstantiate", api.cudaGraphInstantiate, graph, 0)
        finally:
            _checked("cudaGraphDestroy", api.cudaGraphDestroy, graph)
        return Graph(ready)

    def _abandon_capture(self) -> None:
        status, graph = self._api.cudaStreamEndCapture(self._stream)
        if _succeeded(status):
            self._api.cudaGraphDestroy(graph)
        self._api.cudaGetLastError()

    def launch(self, graph: Graph) -> None:
        """Queue everything that was recorded."""
        _checked("cudaGraphLaunch", self._api.cudaGraphLaunch, graph.executable, self._stream)

    def close(self) -> None:
        """Give the stream back; calling it twice is allowed."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            _checked("cudaStreamDestroy", self._api.cudaStreamDestroy, stream)


class Graph:
    """Work that was recorded; the addresses in it are those of the recording."""

    def __init__(self, executable: Any) -> None:
        self.executable = executable

    def close(self) -> None:
        """Give it back; calling it twice is allowed."""
        if self.executable is not None:
            executable, self.executable = self.executable, None
            api = import_module(_BINDINGS)
            _checked("cudaGraphExecDestroy", api.cudaGraphExecDestroy, executable)
