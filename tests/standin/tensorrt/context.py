"""The execution context: it holds on to TensorRT's rules, and ONNX Runtime calculates."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorrt.kinds import (
    CUDA,
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    IOutputAllocator,
    Misuse,
    TensorLocation,
    made,
)

if TYPE_CHECKING:
    from tensorrt.engine import ICudaEngine, IRuntimeConfig

SCRATCH_BYTES = 4096
_ALIGNMENT = 256
_NUMPY = {
    DataType.FLOAT: "float32",
    DataType.HALF: "float16",
    DataType.INT8: "int8",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.BOOL: "bool",
    DataType.UINT8: "uint8",
}


class IExecutionContext:
    @classmethod
    def _of(cls, engine: ICudaEngine, config: IRuntimeConfig) -> IExecutionContext:
        context = cls()
        context._engine = engine
        context._managed = config._strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        context._scratch: int | None = None
        context._profile: int | None = None
        context._shapes: dict[str, tuple[int, ...]] = {}
        context._addresses: dict[str, int] = {}
        context._allocators: dict[str, IOutputAllocator] = {}
        context._inferred: dict[str, tuple[int, ...]] | None = None
        context._told: dict[str, tuple[int, ...]] = {}
        context._changes = 0
        context._flushed = False
        return context

    def _changed(self) -> None:
        """A graph captured before holds no more, and the next run has things to do first."""
        self._changes += 1
        self._flushed = False

    def set_device_memory(self, memory: int, size: int) -> None:
        CUDA._called("set_device_memory", memory)
        CUDA._state.block(memory, size, "device")
        if size < self._engine.device_memory_size_v2 or memory % _ALIGNMENT:
            raise Misuse("the scratch memory is too small or not aligned")
        self._scratch = memory
        self._changed()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        CUDA._called("set_optimization_profile_async", profile_index)
        CUDA._state.stream(stream_handle)
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._engine._said(f"profile {profile_index} does not exist")
        self._profile = profile_index
        # Everything has to be set again.
        self._shapes, self._addresses, self._inferred = {}, {}, None
        self._changed()
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        CUDA._called("set_input_shape", name)
        if self._profile is None:
            raise Misuse("shapes are set after the profile")
        smallest, _, largest = self._engine.get_tensor_profile_shape(name, self._profile)
        within = len(shape) == len(smallest) and all(
            low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
        )
        if not within:
            return self._engine._said(f"{name} {list(shape)} is outside of the profile")
        if self._shapes.get(name) != tuple(shape):
            self._shapes[name], self._inferred = tuple(shape), None
            self._changed()
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        CUDA._called("set_tensor_address", name)
        host = self._engine.get_tensor_location(name) is TensorLocation.HOST
        CUDA._state.block(memory, 0, "host" if host else "device")
        if self._addresses.get(name) != memory:
            self._addresses[name] = memory
            self._changed()
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def infer_shapes(self) -> list[str]:
        CUDA._called("infer_shapes")
        engine = self._engine
        hosts = engine._described.get("values", {})
        missing = [
            name
            for name in engine._given
            if name not in self._shapes or (name in hosts and name not in self._addresses)
        ]
        if missing:
            return missing
        inputs = {
            name: self._read(name) if name in hosts else np.zeros(shape, self._dtype(name))
            for name, shape in self._shapes.items()
        }
        unknown = engine._described.get("unsized", [])
        try:
            found = self._compute(inputs)
        except Exception as error:
            raise RuntimeError(f"shape inference failed: {str(error)[:80]}") from error
        # Once a run has told a size, it stays as if it were known.
        self._inferred = {
            name: self._told.get(name, tuple(engine.get_tensor_shape(name)))
            if name in unknown
            else array.shape
            for name, array in found.items()
        }
        return []

    def get_tensor_shape(self, name: str) -> Dims:
        known = {**self._shapes, **(self._inferred or {})}
        return Dims(known.get(name, tuple(self._engine.get_tensor_shape(name))))

    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator) -> bool:
        CUDA._called("set_output_allocator", name)
        made(output_allocator, IOutputAllocator)
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        CUDA._called("execute_async_v3", stream_handle)
        lacking = self._lacking()
        if lacking:
            return self._engine._said(f"IExecutionContext::enqueueV3: {lacking}")
        stream = CUDA._state.stream(stream_handle)
        if stream.captured is not None and not self._flushed:
            raise Misuse("a run has to come between a change and the capture")
        unsized = self._engine._described.get("unsized", [])
        if unsized and stream.captured is not None:
            stream.broken = True
            return self._engine._said("sizes that depend on data cannot be captured")
        given = {name: self._addresses[name] for name in self._engine._given}
        shapes, changes, alive = dict(self._shapes), self._changes, weakref.ref(self)
        captured = stream.captured is not None
        if unsized:
            return self._execute_unsized(stream_handle, unsized)

        def run() -> None:
            context = alive()
            if captured and (context is None or context._changes != changes):
                raise Misuse("the context of the graph was changed or closed since the capture")
            if context is None:
                raise Misuse("the context was closed before its run was over")
            inputs = {name: context._read(name, given[name], shapes[name]) for name in given}
            for name, array in context._compute(inputs).items():
                context._write(name, array, places[name])

        places = {name: self._addresses[name] for name in self._engine._results}
        CUDA._state.queue(stream_handle, run)
        self._flushed = True
        return True

    def _execute_unsized(self, stream_handle: int, unsized: list[str]) -> bool:
        """The library waits for the sizes itself; the results still come later."""
        CUDA._run(CUDA._state.stream(stream_handle))
        found = self._compute({name: self._read(name) for name in self._engine._given})
        for name, array in found.items():
            place = self._addresses.get(name, 0)
            if name in unsized:
                try:
                    place = self._allocators[name].reallocate_output_async(
                        name, 0, array.nbytes, _ALIGNMENT, stream_handle
                    )
                except Exception as error:
                    raise Misuse("an exception ends the process in the real library") from error
                if not place:
                    return self._engine._said(f"no memory for {name}")
                self._allocators[name].notify_shape(name, Dims(array.shape))
                self._told[name] = array.shape
            CUDA._state.queue(stream_handle, lambda n=name, a=array, p=place: self._write(n, a, p))
        return True

    def _lacking(self) -> str:
        if self._engine._described.get("no_run"):
            return "an error of the engine"
        if self._managed and self._scratch is None:
            return "no device memory"
        if self._inferred is None:
            return "shapes are not inferred"
        for name in [*self._engine._given, *self._engine._results]:
            if name not in self._addresses and name not in self._allocators:
                return f"no address of {name}"
        if self._scratch is not None:
            CUDA._state.block(self._scratch, SCRATCH_BYTES, "device")
        return ""

    def _dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)])

    def _memory(self, name: str) -> str:
        host = self._engine.get_tensor_location(name) is TensorLocation.HOST
        return "host" if host else "device"

    def _read(
        self, name: str, address: int | None = None, shape: tuple[int, ...] | None = None
    ) -> Any:
        dtype = self._dtype(name)
        shape = self._shapes[name] if shape is None else shape
        size = int(np.prod(shape, dtype=int)) * dtype.itemsize
        place = self._addresses[name] if address is None else address
        data = CUDA._state.read(place, size, self._memory(name))
        return np.frombuffer(data, dtype).reshape(shape)

    def _write(self, name: str, array: Any, address: int) -> None:
        data = np.ascontiguousarray(array, self._dtype(name)).tobytes()
        CUDA._state.write(address, data, self._memory(name))

    def _compute(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        names = list(self._engine._results)
        return dict(zip(names, self._engine._session.run(names, dict(inputs)), strict=True))
