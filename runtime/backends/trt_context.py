"""One execution context of an engine: shapes and addresses in, one run out.

The order of the calls is TensorRT's: profile, shapes and addresses of the inputs, inference
of the outputs' shapes, their addresses, the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime.backends.cuda import DeviceMemory, Stream
from runtime.backends.trt_engine import Binding, Shape
from runtime.backends.trt_library import Library, Log
from runtime.backends.trt_memory import Allocation, Buffers, output_allocator
from runtime.errors import InvalidInput, TwinportError

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class CallShape:
    """What is the same in calls that a CUDA graph can repeat."""

    profile: int
    shapes: tuple[Shape, ...]
    """Of the inputs, in the engine's order."""


@dataclass
class Loaded:
    """An engine on the device and everything that its contexts share.

    Attributes:
        library: What runs it.
        log: What the library said.
        engine: The engine.
        inputs: By name.
        outputs: By name.
        stream: All work is queued here.
        buffers: Of inputs and outputs.
        scratch: Activations; contexts share it, since they run one after the other.
        allocation: Of outputs that come without a shape.
        alive: What the engine needs for as long as it is there.
    """

    library: Library
    log: Log
    engine: trt.ICudaEngine
    inputs: Mapping[str, Binding]
    outputs: Mapping[str, Binding]
    stream: Stream
    buffers: Buffers
    scratch: DeviceMemory
    allocation: Allocation
    alive: tuple[object, ...]


class Context:
    """One execution context; closed before its engine."""

    def __init__(self, loaded: Loaded) -> None:
        """Make the context.

        Raises:
            TwinportError: The library could not; the text has its words.
        """
        self._loaded = loaded
        self._ready: tuple[CallShape, int] | None = None
        self._profile: int | None = None
        loaded.log.forget()
        found = _new_context(loaded)
        if found is None:
            raise TwinportError(f"no execution context could be made: {loaded.log.cause()}")
        self._context = found
        # The library does not keep it alive.
        self._allocator = output_allocator(loaded.library, loaded.allocation)
        self.shapes: dict[str, Shape | None] = {}
        """Of the outputs; none where the run itself tells it."""

    @property
    def context(self) -> trt.IExecutionContext:
        """TensorRT's own."""
        return self._context

    def prepare(self, call: CallShape) -> None:
        """Everything before a run; nothing is done where the last run was alike.

        Raises:
            InvalidInput: The engine refuses the shapes or values.
            TwinportError: Another call failed.
        """
        loaded = self._loaded
        reads_host = any(binding.on_host for binding in loaded.inputs.values())
        if self._ready == (call, loaded.buffers.moves) and not reads_host:
            return
        self._ready = None
        loaded.log.forget()
        self._choose(call.profile)
        self._place_inputs(call)
        self._infer_shapes()
        self._place_outputs()
        self._ready = (call, loaded.buffers.moves)

    def _choose(self, profile: int) -> None:
        if profile == self._profile:
            return
        self._profile = None
        handle = self._loaded.stream.handle
        if not self._context.set_optimization_profile_async(profile, handle):
            raise self._failed(f"profile {profile} could not be chosen")
        self._profile = profile

    def _place_inputs(self, call: CallShape) -> None:
        for name, shape in zip(self._loaded.inputs, call.shapes, strict=True):
            if not self._context.set_input_shape(name, shape):
                cause = self._loaded.log.cause()
                raise InvalidInput(f"the engine refuses input '{name}' {list(shape)}: {cause}")
            self._place(name)

    def _infer_shapes(self) -> None:
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:
            cause = self._loaded.log.cause()
            raise InvalidInput(f"the inputs do not go together: {error} ({cause})") from error
        if missing:
            raise self._failed(f"the engine lacks {', '.join(missing)}")

    def _place_outputs(self) -> None:
        shapes: dict[str, Shape | None] = {}
        for name in self._loaded.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            # After a run the context may tell the size that the data of that run had.
            unsized = self.shapes.get(name, shape) is None
            if not unsized and min(shape, default=0) >= 0:
                shapes[name] = shape
                self._loaded.buffers.reserve(name, shape)
                self._place(name)
            elif self._context.set_output_allocator(name, self._allocator):
                shapes[name] = None
            else:
                raise self._failed(f"output '{name}' takes no allocator")
        self.shapes = shapes

    def _place(self, name: str) -> None:
        if not self._context.set_tensor_address(name, self._loaded.buffers[name].address):
            raise self._failed(f"the address of '{name}' was refused")

    def queue(self, call: CallShape) -> None:
        """Queue the copies of the inputs and the run.

        Raises:
            TwinportError: The library refused.
        """
        loaded = self._loaded
        for name, shape in zip(loaded.inputs, call.shapes, strict=True):
            loaded.buffers[name].to_device(loaded.stream, shape)
        loaded.allocation.begin()
        started = self._context.execute_async_v3(loaded.stream.handle)
        if loaded.allocation.failure is not None:
            raise loaded.allocation.failure
        if not started:
            raise self._failed("the engine could not run")

    def close(self) -> None:
        """Give the context back; calling it twice is allowed."""
        if hasattr(self, "_context"):
            del self._context

    def _failed(self, what: str) -> TwinportError:
        return TwinportError(f"{what}: {self._loaded.log.cause()}")


def _new_context(loaded: Loaded) -> trt.IExecutionContext | None:
    """A context over the shared scratch memory; none where the library made none."""
    engine = loaded.engine
    strategy = loaded.library.ExecutionContextAllocationStrategy.USER_MANAGED
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    _keep_kernels(loaded.library, config)
    context: trt.IExecutionContext | None = engine.create_execution_context(config)
    if context is not None:
        context.set_device_memory(loaded.scratch.address, loaded.scratch.size)
    return context


def captures_itself(library: Library) -> bool:
    """Whether the library makes CUDA graphs by itself."""
    return hasattr(library, "CudaGraphStrategy")


def _keep_kernels(library: Library, config: Any) -> None:
    """Where kernels are compiled on the device: those of the replay, for good.

    TensorRT-RTX else swaps in others while it serves, which nothing has proved. Its graphs
    know when its kernels are there.
    """
    if captures_itself(library):
        module: Any = library
        kinds = module.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kinds.NONE
        config.cuda_graph_strategy = module.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
