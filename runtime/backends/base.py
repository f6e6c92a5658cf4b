"""What every backend is to the rest of the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.tensors import Array, TensorSpec


@dataclass(frozen=True)
class BackendIdentity:
    """What exactly runs the artifact; a verdict holds for one identity only."""

    backend: str
    """``onnxruntime``, ``tensorrt``, ``tensorrt_rtx``."""
    provider: str
    """``CPUExecutionProvider``, ``CUDAExecutionProvider``."""
    device: str
    """The processor or GPU by its name."""
    library: str
    """Name and version of the library."""


@dataclass(frozen=True)
class BackendOptions:
    """How a backend may use the machine.

    Attributes:
        device: ``cpu`` or ``cuda``, for ONNX Runtime; TensorRT's engines run on a GPU always.
        threads: Threads inside one node, for ONNX Runtime; one is cheapest for small models,
            0 is one for each core.
        node_threads: Threads for nodes that run side by side, where ``parallel`` lets them.
        parallel: Whether nodes may run side by side.
        spinning: Whether threads that wait for work burn time meanwhile.
        newer_library: Whether the artifact was built to run on newer versions of its library
            too; its manifest says it.
        engine_code: Whether such an engine may run the code that it brings, in this process.
        optimised: Whether the library may rewrite the graph, for ONNX Runtime.
        layouts: Whether it may re-lay tensors for the processor, too: ONNX Runtime 1.32 dies
            of that where a graph computes in fp16 (``NchwcTransformer``).
    """

    device: str = "cpu"
    threads: int = 1
    node_threads: int = 1
    parallel: bool = False
    spinning: bool = False
    newer_library: bool = False
    engine_code: bool = False
    optimised: bool = True
    layouts: bool = True


class Backend(Protocol):
    """One loaded artifact on one device; holds it until closed."""

    @property
    def identity(self) -> BackendIdentity:
        """What runs here."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """The artifact's inputs by name, in its own order."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """The artifact's outputs by name, in its own order."""

    @property
    def captures(self) -> bool:
        """Whether calls that come again are answered another way: a replay asks them again."""

    def infer(
        self, arrays: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run one batch.

        Args:
            arrays: An array for each input, checked already.
            outputs: The outputs wanted; all where none are named.

        Returns:
            The outputs by name; they belong to the caller.

        Raises:
            TwinportError: The library refused the call; the text names the cause.
        """

    def close(self) -> None:
        """Give the device's memory back; calling it twice is allowed."""
