"""A stand-in for TensorRT's run time: names, arguments and rules; ONNX Runtime calculates.

A plan for it is a header as a real one has it, a description in JSON and an ONNX model
(``plan_bytes``). Rules that TensorRT answers with an error are answered so; those whose
breach is undefined there raise ``Misuse``. Nothing that runs on it is a result of TensorRT.
"""

from __future__ import annotations

import enum
import json
import weakref
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import onnx
import onnxruntime

_cuda: Any = import_module("cuda.bindings.runtime")
Misuse = _cuda.Misuse

__version__ = "11.4.0.106"
_MAGIC = b"ftrt"
_SCRATCH_BYTES = 4096
_ALIGNMENT = 256


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT8 = 2
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    FP8 = 6
    BF16 = 7
    INT64 = 8
    INT4 = 9
    FP4 = 10
    E8M0 = 11


class TensorFormat(enum.Enum):
    LINEAR = 0
    CHW32 = 5


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


_TYPES = {
    "tensor(float)": DataType.FLOAT,
    "tensor(float16)": DataType.HALF,
    "tensor(int8)": DataType.INT8,
    "tensor(int32)": DataType.INT32,
    "tensor(int64)": DataType.INT64,
    "tensor(bool)": DataType.BOOL,
    "tensor(uint8)": DataType.UINT8,
    "tensor(bfloat16)": DataType.BF16,
}
_NUMPY = {
    DataType.FLOAT: "float32",
    DataType.HALF: "float16",
    DataType.INT8: "int8",
    DataType.INT32: "int32",
    DataType.INT64: "int64",
    DataType.BOOL: "bool",
    DataType.UINT8: "uint8",
}


class Dims:
    """Sizes; like a tuple, but none."""

    def __init__(self, shape: Sequence[int] = ()) -> None:
        self._sizes = tuple(shape)

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, arg0: int) -> int:
        return self._sizes[arg0]


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def __init__(self) -> None:
        self._made = True

    def log(self, severity: Severity, msg: str) -> None:
        raise Misuse("a logger has to say what it does with a line")


class IOutputAllocator:
    def __init__(self) -> None:
        self._made = True


def _made(thing: Any, kind: type) -> None:
    if not isinstance(thing, kind) or not getattr(thing, "_made", False):
        raise TypeError(f"{kind.__name__}.__init__() must be called when overriding __init__")


def _plan_bytes(
    model: bytes,
    profiles: Sequence[Mapping[str, Sequence[Sequence[int]]]],
    *,
    magic: bytes = _MAGIC,
    version: Sequence[int] = (11, 4, 0, 106),
    **more: Any,
) -> bytes:
    """A plan for the stand-in.

    Args:
        model: ONNX.
        profiles: By profile and input, smallest, optimal and largest shape.
        magic: First bytes of the file.
        version: Of the library that is said to have built it.
        more: ``values`` by shape tensor and profile, as ``profiles``; ``types``, ``layouts``
            to tell other than they are; ``host_code`` where the plan brings code.
    """
    described = json.dumps({"profiles": list(profiles), **more}).encode()
    body = len(described).to_bytes(8, "little") + described + model
    length = (28 + len(body)).to_bytes(8, "little")
    return magic + bytes(12) + length + bytes(version) + body


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    _made(logger, ILogger)
    _cuda._called("init_libnvinfer_plugins")
    return True


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        _made(logger, ILogger)
        if not _cuda._state.devices:
            raise Misuse("without a driver the real library ends the process here")
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        said = _refusal(serialized_engine, host_code=self.engine_host_code_allowed)
        if said:
            self._logger.log(ILogger.Severity.ERROR, f"IRuntime::deserialize: {said}")
            return None
        return ICudaEngine._from(self, bytes(serialized_engine))


def _refusal(plan: bytes, *, host_code: bool) -> str:
    if plan[:4] != _MAGIC or int.from_bytes(plan[16:24], "little") != len(plan):
        return "Serialization assertion failed"
    described, _ = _parts(plan)
    if described.get("broken"):
        return "Magic tag does not match"
    if "unsized" in described and "init_libnvinfer_plugins" not in _cuda._state.names():
        return "the plugin of NonZero was not found"
    if described.get("host_code") and not host_code:
        return "the plan has host code, which is not allowed"
    return ""


def _parts(plan: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(plan[28:36], "little")
    return json.loads(plan[36 : 36 + size]), plan[36 + size :]


class IRuntimeConfig:
    _strategy = ExecutionContextAllocationStrategy.STATIC

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        return self._strategy

    def set_execution_context_allocation_strategy(
        self, strategy: ExecutionContextAllocationStrategy
    ) -> None:
        self._strategy = strategy


class ICudaEngine:
    @classmethod
    def _from(cls, runtime: Runtime, plan: bytes) -> ICudaEngine:
        engine = cls()
        engine._runtime = runtime
        engine._described, model = _parts(plan)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        engine._session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        engine._nodes = [
            node.name or node.op_type for node in onnx.load_from_string(model).graph.node
        ]
        engine._given = {item.name: item for item in engine._session.get_inputs()}
        engine._results = {item.name: item for item in engine._session.get_outputs()}
        return engine

    def _said(self, text: str) -> bool:
        self._runtime._logger.log(ILogger.Severity.ERROR, text)
        return False

    @property
    def num_io_tensors(self) -> int:
        return len(self._given) + len(self._results)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._described["profiles"])

    @property
    def device_memory_size_v2(self) -> int:
        return _SCRATCH_BYTES

    def get_tensor_name(self, index: int) -> str:
        return [*self._given, *self._results][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._given else TensorIOMode.OUTPUT

    def _tensor(self, name: str) -> Any:
        return self._given.get(name) or self._results[name]

    def get_tensor_dtype(self, name: str) -> DataType:
        told = self._described.get("types", {}).get(name)
        return DataType[told] if told else _TYPES[self._tensor(name).type]

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat[self._described.get("layouts", {}).get(name, "LINEAR")]

    def get_tensor_shape(self, name: str) -> Dims:
        return Dims([size if isinstance(size, int) else -1 for size in self._tensor(name).shape])

    def get_tensor_location(self, name: str) -> TensorLocation:
        host = name in self._described.get("values", {})
        return TensorLocation.HOST if host else TensorLocation.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return name in self._described.get("values", {})

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        fixed = tuple(self.get_tensor_shape(name))
        shapes = self._described["profiles"][profile_index].get(name, [fixed] * 3)
        return [Dims(shape) for shape in shapes]

    def get_tensor_profile_values(self, name: int, profile_index: str) -> list[list[int]]:
        # The real bindings name their arguments the wrong way round.
        if not isinstance(name, int) or not isinstance(profile_index, str):
            raise TypeError("get_tensor_profile_values(): incompatible function arguments")
        return [list(item) for item in self._described["values"][profile_index][name]]

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig) -> IExecutionContext | None:
        if self._described.get("no_context"):
            self._said("no context")
            return None
        return IExecutionContext._of(self, runtime_config)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector._of(self)


class EngineInspector:
    execution_context: IExecutionContext

    @classmethod
    def _of(cls, engine: ICudaEngine) -> EngineInspector:
        inspector = cls()
        inspector._engine = engine
        return inspector

    def get_engine_information(self, format: LayerInformationFormat) -> str:
        if format is not LayerInformationFormat.JSON:
            return "\n".join(self._engine._nodes)
        return json.dumps({"Layers": self._engine._nodes, "Bindings": list(self._engine._given)})


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
        _cuda._called("set_device_memory", memory)
        _cuda._state.block(memory, size, "device")
        if size < self._engine.device_memory_size_v2 or memory % _ALIGNMENT:
            raise Misuse("the scratch memory is too small or not aligned")
        self._scratch = memory
        self._changed()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        _cuda._called("set_optimization_profile_async", profile_index)
        _cuda._state.stream(stream_handle)
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._engine._said(f"profile {profile_index} does not exist")
        self._profile = profile_index
        # Everything has to be set again.
        self._shapes, self._addresses, self._inferred = {}, {}, None
        self._changed()
        return True

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        _cuda._called("set_input_shape", name)
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
        _cuda._called("set_tensor_address", name)
        host = self._engine.get_tensor_location(name) is TensorLocation.HOST
        _cuda._state.block(memory, 0, "host" if host else "device")
        if self._addresses.get(name) != memory:
            self._addresses[name] = memory
            self._changed()
        return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def infer_shapes(self) -> list[str]:
        _cuda._called("infer_shapes")
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
        _cuda._called("set_output_allocator", name)
        _made(output_allocator, IOutputAllocator)
        self._allocators[name] = output_allocator
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        _cuda._called("execute_async_v3", stream_handle)
        lacking = self._lacking()
        if lacking:
            return self._engine._said(f"IExecutionContext::enqueueV3: {lacking}")
        stream = _cuda._state.stream(stream_handle)
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
        _cuda._state.queue(stream_handle, run)
        self._flushed = True
        return True

    def _execute_unsized(self, stream_handle: int, unsized: list[str]) -> bool:
        """The library waits for the sizes itself; the results still come later."""
        _cuda._run(_cuda._state.stream(stream_handle))
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
            _cuda._state.queue(stream_handle, lambda n=name, a=array, p=place: self._write(n, a, p))
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
            _cuda._state.block(self._scratch, _SCRATCH_BYTES, "device")
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
        data = _cuda._state.read(place, size, self._memory(name))
        return np.frombuffer(data, dtype).reshape(shape)

    def _write(self, name: str, array: Any, address: int) -> None:
        data = np.ascontiguousarray(array, self._dtype(name)).tobytes()
        _cuda._state.write(address, data, self._memory(name))

    def _compute(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        names = list(self._engine._results)
        return dict(zip(names, self._engine._session.run(names, dict(inputs)), strict=True))
