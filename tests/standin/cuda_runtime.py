"""A stand-in for ``cuda.bindings.runtime``: names, arguments and rules, but no GPU.

Device memory is host memory behind addresses that nobody can dereference. Everything that
is queued on a stream runs when the stream is synchronised and not before, so that an answer
that was read too early is wrong. Memory that was given back stays poisoned, and its use is
an error. Nothing that runs on it is a result of CUDA.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

cudaStreamNonBlocking = 1
cudaHostAllocDefault = 0
_POISON = 0xA5
_FIRST_ADDRESS = 1 << 46
_ALIGNMENT = 256


class Misuse(Exception):
    """A rule of CUDA or TensorRT was broken where the real ones give undefined behaviour."""


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


_OK = cudaError_t.cudaSuccess


@dataclass
class _Block:
    """Some memory; ``data`` outlives it so that a late use is seen and does no harm."""

    address: int
    data: Any
    kind: str
    live: bool = True


@dataclass
class _Stream:
    """What waits, and what is being captured."""

    handle: int
    waiting: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None
    broken: bool = False
    live: bool = True

    def __int__(self) -> int:
        return self.handle


@dataclass
class _Graph:
    """Captured work; instantiated where ``executable`` is set."""

    steps: list[Callable[[], None]]
    executable: bool = False
    live: bool = True


@dataclass
class _State:
    """Everything on the device, and every call."""

    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    blocks: list[_Block] = field(default_factory=list)
    streams: list[_Stream] = field(default_factory=list)
    graphs: list[_Graph] = field(default_factory=list)
    engines: list[Callable[[], Any]] = field(default_factory=list)
    """Weak references to what was loaded; the weights go when nobody knows an engine."""
    failing: dict[str, cudaError_t] = field(default_factory=dict)
    """The next call of that name gives this error instead."""
    devices: int = 1
    name: bytes = b"Stand-in"
    capability: tuple[int, int] = (8, 9)
    next_address: int = _FIRST_ADDRESS

    def names(self) -> list[str]:
        """Names of the calls so far."""
        return [name for name, _ in self.calls]

    def held(self) -> list[Any]:
        """What was not given back."""
        return [item for item in (*self.blocks, *self.streams, *self.graphs) if item.live]

    def block(self, address: int, size: int, kind: str) -> tuple[_Block, int]:
        """The live memory at an address, and the offset in it."""
        for block in self.blocks:
            offset = address - block.address
            if 0 <= offset < len(block.data) and block.kind == kind:
                if not block.live:
                    raise Misuse(f"{kind} memory at {address:#x} was given back")
                if offset + size > len(block.data):
                    raise Misuse(f"{size} bytes at {address:#x} reach beyond the memory")
                return block, offset
        raise Misuse(f"{address:#x} is no {kind} memory")

    def read(self, address: int, size: int, kind: str) -> bytes:
        """Bytes of a live block."""
        block, offset = self.block(address, size, kind)
        return bytes(block.data[offset : offset + size])

    def write(self, address: int, data: bytes, kind: str) -> None:
        """Change bytes of a live block."""
        block, offset = self.block(address, len(data), kind)
        block.data[offset : offset + len(data)] = data

    def stream(self, handle: Any) -> _Stream:
        """The live stream of a handle."""
        for stream in self.streams:
            if stream.handle == int(handle) and stream.live:
                return stream
        raise Misuse(f"{handle!r} is no stream that is open")

    def queue(self, handle: Any, step: Callable[[], None]) -> None:
        """Put work on a stream, or into what it captures."""
        stream = self.stream(handle)
        (stream.waiting if stream.captured is None else stream.captured).append(step)


_state = _State()


def _called(name: str, *arguments: Any) -> cudaError_t:
    _state.calls.append((name, arguments))
    return _state.failing.pop(name, _OK)


def _unsafe_in_capture() -> bool:
    """Whether a call ends a capture, as those that may synchronise do."""
    capturing = [stream for stream in _state.streams if stream.captured is not None]
    for stream in capturing:
        stream.broken = True
    return bool(capturing)


def cudaGetErrorString(error: Any) -> tuple[cudaError_t, bytes]:
    return _OK, f"stand-in text of {cudaError_t(error).name}".encode()


def cudaGetLastError() -> tuple[cudaError_t]:
    return (_OK,)


def cudaGetDeviceCount() -> tuple[cudaError_t, int]:
    status = _called("cudaGetDeviceCount")
    if not _state.devices and status == _OK:
        status = cudaError_t.cudaErrorNoDevice
    return status, _state.devices


def cudaGetDeviceProperties(device: int) -> tuple[cudaError_t, Any]:
    status = _called("cudaGetDeviceProperties", device)
    major, minor = _state.capability
    return status, SimpleNamespace(name=_state.name, major=major, minor=minor)


def cudaMalloc(size: int) -> tuple[cudaError_t, int]:
    status = _called("cudaMalloc", size)
    if _unsafe_in_capture():
        status = cudaError_t.cudaErrorStreamCaptureUnsupported
    if status != _OK:
        return status, 0
    address = _state.next_address
    # A gap after each, so that reaching beyond one is seen.
    _state.next_address += (size // _ALIGNMENT + 2) * _ALIGNMENT
    _state.blocks.append(_Block(address, bytearray([_POISON]) * size, "device"))
    return _OK, address


def cudaHostAlloc(size: int, flags: int) -> tuple[cudaError_t, int]:
    status = _called("cudaHostAlloc", size, flags)
    if _unsafe_in_capture():
        status = cudaError_t.cudaErrorStreamCaptureUnsupported
    if status != _OK:
        return status, 0
    memory = (ctypes.c_uint8 * size)(*([_POISON] * size))
    address = ctypes.addressof(memory)
    _state.blocks.append(_Block(address, memoryview(memory).cast("B"), "host"))
    return _OK, address


def cudaFree(devPtr: Any) -> tuple[cudaError_t]:
    return (_freed("cudaFree", devPtr, "device"),)


def cudaFreeHost(ptr: Any) -> tuple[cudaError_t]:
    return (_freed("cudaFreeHost", ptr, "host"),)


def _freed(name: str, address: int, kind: str) -> cudaError_t:
    status = _called(name, address)
    if _unsafe_in_capture():
        return cudaError_t.cudaErrorStreamCaptureUnsupported
    block, offset = _state.block(address, 0, kind)
    if offset:
        raise Misuse(f"{address:#x} lies within memory, not at its beginning")
    # As in CUDA, giving memory back waits for what still uses it.
    for stream in _state.streams:
        _run(stream)
    block.data[:] = bytes([_POISON]) * len(block.data)
    block.live = False
    return status


def cudaStreamCreateWithFlags(flags: int) -> tuple[cudaError_t, Any]:
    status = _called("cudaStreamCreateWithFlags", flags)
    stream = _Stream(7000 + len(_state.streams))
    if status == _OK:
        _state.streams.append(stream)
    return status, stream


def cudaStreamDestroy(stream: Any) -> tuple[cudaError_t]:
    status = _called("cudaStreamDestroy", int(stream))
    _state.stream(stream).live = False
    return (status,)


def cudaStreamSynchronize(stream: Any) -> tuple[cudaError_t]:
    status = _called("cudaStreamSynchronize", int(stream))
    found = _state.stream(stream)
    if found.captured is not None:
        found.broken = True
        return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
    _run(found)
    return (status,)


def _run(stream: _Stream) -> None:
    waiting, stream.waiting = stream.waiting, []
    for step in waiting:
        step()


def cudaMemcpyAsync(
    dst: Any, src: Any, count: int, kind: cudaMemcpyKind, stream: Any
) -> tuple[cudaError_t]:
    status = _called("cudaMemcpyAsync", dst, src, count, kind, int(stream))
    down = kind == cudaMemcpyKind.cudaMemcpyHostToDevice
    source, target = ("host", "device") if down else ("device", "host")
    if status == _OK:
        _state.block(src, count, source)
        _state.block(dst, count, target)
        _state.queue(stream, lambda: _state.write(dst, _state.read(src, count, source), target))
    return (status,)


def cudaStreamBeginCapture(stream: Any, mode: cudaStreamCaptureMode) -> tuple[cudaError_t]:
    status = _called("cudaStreamBeginCapture", int(stream), mode)
    if status == _OK:
        _state.stream(stream).captured = []
    return (status,)


def cudaStreamEndCapture(stream: Any) -> tuple[cudaError_t, Any]:
    status = _called("cudaStreamEndCapture", int(stream))
    found = _state.stream(stream)
    if found.captured is None:
        raise Misuse("nothing is being captured")
    steps, broken = found.captured, found.broken
    found.captured, found.broken = None, False
    if broken or status != _OK:
        return status or cudaError_t.cudaErrorStreamCaptureInvalidated, None
    graph = _Graph(steps)
    _state.graphs.append(graph)
    return _OK, graph


def cudaGraphInstantiate(graph: Any, flags: int) -> tuple[cudaError_t, Any]:
    status = _called("cudaGraphInstantiate", flags)
    if status != _OK:
        return status, None
    ready = _Graph(list(graph.steps), executable=True)
    _state.graphs.append(ready)
    return _OK, ready


def cudaGraphLaunch(graphExec: Any, stream: Any) -> tuple[cudaError_t]:
    status = _called("cudaGraphLaunch", int(stream))
    if not (graphExec.executable and graphExec.live):
        raise Misuse("no graph that can be launched")
    for step in graphExec.steps if status == _OK else ():
        _state.queue(stream, step)
    return (status,)


def cudaGraphDestroy(graph: Any) -> tuple[cudaError_t]:
    return (_dropped("cudaGraphDestroy", graph),)


def cudaGraphExecDestroy(graphExec: Any) -> tuple[cudaError_t]:
    return (_dropped("cudaGraphExecDestroy", graphExec),)


def _dropped(name: str, graph: _Graph) -> cudaError_t:
    status = _called(name)
    if not graph.live:
        raise Misuse("the graph was given back already")
    graph.live = False
    return status
