"""A stand-in for TensorRT's run time: names, arguments and rules; ONNX Runtime calculates.

Rules that TensorRT answers with an error are answered so; those whose breach is undefined
there raise ``Misuse``. Nothing that runs on it is a result of TensorRT. What is not
TensorRT's own begins with an underscore.
"""

from __future__ import annotations

from tensorrt.context import IExecutionContext
from tensorrt.engine import (
    EngineInspector,
    ICudaEngine,
    IRuntimeConfig,
    Runtime,
    init_libnvinfer_plugins,
)
from tensorrt.kinds import (
    DataType,
    Dims,
    ExecutionContextAllocationStrategy,
    ILogger,
    IOutputAllocator,
    LayerInformationFormat,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
)
from tensorrt.plans import plan_bytes as _plan_bytes

__version__ = "11.4.0.106"
__all__ = [
    "DataType",
    "Dims",
    "EngineInspector",
    "ExecutionContextAllocationStrategy",
    "ICudaEngine",
    "IExecutionContext",
    "ILogger",
    "IOutputAllocator",
    "IRuntimeConfig",
    "LayerInformationFormat",
    "Runtime",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
    "_plan_bytes",
    "init_libnvinfer_plugins",
]
