"""``onnx.reference`` in a backend's place: slow, on NumPy, and with every type that ONNX has.

What no runtime of this machine has kernels for can be judged with it. Its verdict is about the
graph as ONNX defines it, and about no runtime.

Left to itself it sums bf16 in bf16, one number after the other, and the mean of an image loses
half of its bits. No hardware does that: here each operator computes in float32 and its results
are rounded to bf16.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops import load_op

from runtime.backends.base import BackendIdentity
from runtime.errors import InvalidInput, RepositoryError
from runtime.tensors import Array, TensorSpec

BACKEND = "onnx.reference"
PROVIDER = "ReferenceEvaluator"
_OF_TYPES = frozenset({"Cast", "CastLike", "Constant"})
"""Operators whose results are of the type that they are told."""


class ReferenceBackend:
    """One graph, evaluated operator by operator."""

    def __init__(
        self, artifact: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
    ) -> None:
        """Load a graph.

        Args:
            artifact: The ONNX file.
            inputs: Of the graph.
            outputs: Of the graph, in its order.

        Raises:
            RepositoryError: The evaluator does not know an operator of it.
        """
        self._inputs = {spec.name: spec for spec in inputs}
        self._outputs = {spec.name: spec for spec in outputs}
        try:
            model = onnx.load(artifact)
            self._evaluator = ReferenceEvaluator(model, new_ops=_wide_operators(model))
        except Exception as error:
            raise RepositoryError(
                f"{BACKEND} cannot load {artifact.name}: {_line(error)}"
            ) from error

    @property
    def identity(self) -> BackendIdentity:
        """The evaluator; it runs on NumPy whatever the processor."""
        return BackendIdentity(BACKEND, PROVIDER, "NumPy", f"onnx {onnx.__version__}")

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Inputs of the graph by name."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Outputs of the graph by name."""
        return self._outputs

    @property
    def captures(self) -> bool:
        """Every call runs alike."""
        return False

    def infer(
        self, arrays: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Evaluate the graph once.

        Raises:
            InvalidInput: An operator cannot be evaluated.
        """
        names = list(self._outputs) if outputs is None else list(outputs)
        try:
            # Overflow is an answer here; NumPy warns of it and of types that it does not know.
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results = self._evaluator.run(names, dict(arrays))
        except Exception as error:
            raise InvalidInput(f"{BACKEND}: {_line(error)}") from error
        return dict(zip(names, map(np.asarray, results), strict=True))

    def close(self) -> None:
        """Nothing is held."""


def seconds_of(backend: ReferenceBackend, arrays: Mapping[str, Array]) -> float:
    """How long one call takes.

    Raises:
        InvalidInput: It cannot be evaluated.
    """
    began = time.perf_counter()
    backend.infer(arrays)
    return time.perf_counter() - began


def _wide_operators(model: onnx.ModelProto) -> list[type[OpRun]]:
    """The evaluator's operators of a model, computing in float32 where bf16 goes in."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    kinds = {node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx")}
    wide = []
    for kind in sorted(kinds - _OF_TYPES):
        try:
            base = load_op("", kind, opset)
        except (NotImplementedError, RuntimeError, AssertionError):
            continue  # a function of other operators, or one that it says it lacks when it runs
        if isinstance(base, type) and issubclass(base, OpRun):
            wide.append(_wide(base, kind))
    return wide


def _wide(base: type[OpRun], kind: str) -> type[OpRun]:
    own: Callable[..., tuple[Any, ...]] = base._run

    def _run(self: OpRun, *arguments: Any, **named: Any) -> tuple[Any, ...]:
        low = next((item.dtype for item in arguments if _is_bf16(item)), None)
        if low is None:
            return own(self, *arguments, **named)
        widened = [item.astype(np.float32) if _is_bf16(item) else item for item in arguments]
        results = own(self, *widened, **named)
        return tuple(
            item.astype(low) if getattr(item, "dtype", None) == np.float32 else item
            for item in results
        )

    return type(kind, (base,), {"op_domain": "", "_run": _run})


def _is_bf16(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.dtype.name == "bfloat16"


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
