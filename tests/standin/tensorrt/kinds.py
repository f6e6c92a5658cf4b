"""The enumerations, and the classes that a user derives from."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from importlib import import_module
from typing import Any

CUDA: Any = import_module("cuda.bindings.runtime")
Misuse = CUDA.Misuse


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


def made(thing: Any, kind: type) -> None:
    if not isinstance(thing, kind) or not getattr(thing, "_made", False):
        raise TypeError(f"{kind.__name__}.__init__() must be called when overriding __init__")
