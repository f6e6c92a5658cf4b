"""From a plan to a context; ONNX Runtime holds the model."""

from __future__ import annotations

import json
import weakref
from typing import Any

import onnx
import onnxruntime
from tensorrt.context import SCRATCH_BYTES, IExecutionContext
from tensorrt.kinds import (
    CUDA,
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    ILogger,
    LayerInformationFormat,
    Misuse,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
    made,
)
from tensorrt.plans import parts, refusal

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


def init_libnvinfer_plugins(logger: Any, namespace: str) -> bool:
    made(logger, ILogger)
    CUDA._called("init_libnvinfer_plugins")
    return True


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        made(logger, ILogger)
        if not CUDA._state.devices:
            raise Misuse("without a driver the real library ends the process here")
        self._logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        said = refusal(serialized_engine, host_code=self.engine_host_code_allowed)
        if said:
            self._logger.log(ILogger.Severity.ERROR, f"IRuntime::deserialize: {said}")
            return None
        return ICudaEngine._from(self, bytes(serialized_engine))


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
        CUDA._state.engines.append(weakref.ref(engine))
        engine._described, model = parts(plan)
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
        return SCRATCH_BYTES

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
