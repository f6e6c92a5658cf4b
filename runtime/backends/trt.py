"""TensorRT engines behind the backend protocol, those of TensorRT-RTX too.

Nothing of the library is called before the file, the library's version, the driver and the
GPU were looked at: it may end the process where one of them is not as it must be.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.backends.base import BackendIdentity, BackendOptions
from runtime.backends.cuda import DeviceMemory, Gpu, Stream, device_problem, gpu
from runtime.backends.plan import FLAVOURS, Flavour, check_plan
from runtime.backends.trt_context import CallShape, Context, Loaded, captures_itself
from runtime.backends.trt_engine import (
    Shape,
    bindings_of,
    check_arrays,
    check_outputs,
    choose_profile,
)
from runtime.backends.trt_graphs import Graphs
from runtime.backends.trt_library import (
    Library,
    Log,
    check_target,
    check_version,
    library_logger,
    load_library,
    load_plugins,
    version_of,
)
from runtime.backends.trt_memory import Allocation, Buffers
from runtime.errors import BackendUnavailable, RepositoryError, TwinportError, Unavailable
from runtime.tensors import Array, TensorSpec

if TYPE_CHECKING:
    import tensorrt as trt


logger = logging.getLogger(__name__)


class TrtBackend:
    """One engine on the GPU, with a stream and an execution context of its own.

    Calls run one after the other; whoever comes meanwhile waits.
    """

    def __init__(self, plan: Path, options: BackendOptions, flavour: Flavour) -> None:
        """Load ``plan``.

        Raises:
            RepositoryError: The file is no engine, cut, of the other library, or refused.
            BackendUnavailable: The library, its version, the driver or the GPU is not here.
        """
        header = check_plan(plan, flavour)
        library = load_library(flavour)
        check_version(header, library, newer=options.newer_library)
        device = _device(flavour)
        check_target(library, flavour, device)
        self._lock = threading.Lock()
        with ExitStack() as held:
            opened = _opened(_loaded(library, plan, flavour, options, held), held)
            self._held = held.pop_all()
        self._opened: _Opened | None = opened
        self._inputs = {name: item.spec for name, item in opened.loaded.inputs.items()}
        self._outputs = {name: item.spec for name, item in opened.loaded.outputs.items()}
        self._captures = opened.graphs is not None or captures_itself(library)
        self._identity = BackendIdentity(
            flavour.name, flavour.title, str(device), f"{flavour.name} {version_of(library)}"
        )

    @property
    def identity(self) -> BackendIdentity:
        """Flavour, GPU and version."""
        return self._identity

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Inputs of the engine by name."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Outputs of the engine by name."""
        return self._outputs

    @property
    def captures(self) -> bool:
        """Whether a CUDA graph answers calls that come again, ours or the library's."""
        return self._captures

    def infer(
        self, arrays: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the engine once; see ``Backend.infer``."""
        with self._lock:
            opened = self._open()
            loaded = opened.loaded
            names = list(loaded.outputs) if outputs is None else list(outputs)
            check_arrays(loaded.inputs, arrays)
            check_outputs(loaded.outputs, names)
            profile = choose_profile(loaded.inputs, arrays)
            call = CallShape(profile, tuple(arrays[name].shape for name in loaded.inputs))
            try:
                return _run(opened, call, arrays, names)
            except BaseException:
                # What was queued still reads and writes the buffers of the next call.
                with suppress(TwinportError):
                    loaded.stream.synchronize()
                raise

    def information(self) -> dict[str, Any]:
        """What the engine says of its layers; how much depends on how it was built.

        Raises:
            Unavailable: It is closed.
            TwinportError: The library gives no JSON.
        """
        with self._lock:
            opened = self._open()
            loaded = opened.loaded
            inspector = loaded.engine.create_engine_inspector()
            inspector.execution_context = opened.context.context
            text = inspector.get_engine_information(loaded.library.LayerInformationFormat.JSON)
        try:
            return dict(json.loads(text))
        except (TypeError, ValueError) as error:
            raise TwinportError(f"the engine's inspector gives no JSON: {error}") from error

    def close(self) -> None:
        """Give the device's memory back; calling it twice is allowed."""
        with self._lock:
            # The engine goes with the last that knows it.
            self._opened = None
            try:
                self._held.close()
            except TwinportError as error:
                # After a fault of the GPU nothing can be given back but by ending the process.
                logger.warning("an engine left memory behind: %s", error)

    def _open(self) -> _Opened:
        if self._opened is None:
            raise Unavailable("the engine is closed; load the model again")
        return self._opened


@dataclass(frozen=True)
class _Opened:
    """An engine and what runs it.

    Attributes:
        loaded: The engine with its memory.
        context: For every call that is no graph.
        graphs: None where nothing may be captured.
    """

    loaded: Loaded
    context: Context
    graphs: Graphs | None


def open_tensorrt(plan: Path, options: BackendOptions) -> TrtBackend:
    """Load an engine of full TensorRT; see ``TrtBackend``."""
    return TrtBackend(plan, options, FLAVOURS["tensorrt"])


def open_tensorrt_rtx(plan: Path, options: BackendOptions) -> TrtBackend:
    """Load an engine of TensorRT-RTX; see ``TrtBackend``."""
    return TrtBackend(plan, options, FLAVOURS["tensorrt_rtx"])


def _device(flavour: Flavour) -> Gpu:
    problem = device_problem()
    if problem is not None:
        raise BackendUnavailable(f"an engine of {flavour.title} runs on a GPU only: {problem}")
    return gpu()


def _loaded(
    library: Library, plan: Path, flavour: Flavour, options: BackendOptions, held: ExitStack
) -> Loaded:
    """The engine on the device, with its memory and its stream; ``held`` gives them back."""
    log = Log()
    logger = library_logger(library, log)
    load_plugins(library, logger)
    runtime = library.Runtime(logger)
    # Built to run on newer versions, a plan brings code that runs in this process.
    runtime.engine_host_code_allowed = options.engine_code
    found: trt.ICudaEngine | None = runtime.deserialize_cuda_engine(plan.read_bytes())
    if found is None:
        hint = ""
        if options.newer_library and not options.engine_code:
            hint = "; it may want to run code that it brings: --engine-code allow lets it"
        raise RepositoryError(f"{plan} was refused by {flavour.title}: {log.cause()}{hint}")
    inputs, outputs = bindings_of(library, found)
    buffers = Buffers([*inputs.values(), *outputs.values()])
    held.callback(buffers.close)
    allocation = Allocation()
    held.callback(allocation.close)
    scratch = DeviceMemory(max(found.device_memory_size_v2, 1))
    held.callback(scratch.close)
    stream = Stream()
    held.callback(stream.close)
    return Loaded(
        library, log, found, inputs, outputs, stream, buffers, scratch, allocation,
        (runtime, logger),
    )  # fmt: skip


def _opened(loaded: Loaded, held: ExitStack) -> _Opened:
    context = Context(loaded)
    held.callback(context.close)
    graphs = Graphs(loaded) if _can_capture(loaded) else None
    if graphs is not None:
        held.callback(graphs.close)
    return _Opened(loaded, context, graphs)


def _can_capture(loaded: Loaded) -> bool:
    """Whether a run may be recorded: not where the library does that, or reads the host."""
    bindings = [*loaded.inputs.values(), *loaded.outputs.values()]
    on_host = any(binding.on_host for binding in bindings)
    return not on_host and not captures_itself(loaded.library)


def _run(
    opened: _Opened, call: CallShape, arrays: Mapping[str, Array], names: Sequence[str]
) -> dict[str, Array]:
    """Fill the inputs, run or replay, take the outputs."""
    loaded, context, graphs = opened.loaded, opened.context, opened.graphs
    for name in loaded.inputs:
        loaded.buffers.reserve(name, arrays[name].shape)
        loaded.buffers[name].fill(arrays[name])
    captured = graphs.find(call) if graphs is not None else None
    if captured is not None:
        loaded.stream.launch(captured.graph)
        return _collect(loaded, captured.context.shapes, names)
    context.prepare(call)
    context.queue(call)
    results = _collect(loaded, context.shapes, names)
    if graphs is not None and None not in context.shapes.values():
        graphs.ran(call)
    return results


def _collect(
    loaded: Loaded, shapes: Mapping[str, Shape | None], names: Sequence[str]
) -> dict[str, Array]:
    """Copies of the outputs, once the run is done."""
    buffers, stream = loaded.buffers, loaded.stream
    found: dict[str, Shape] = {}
    for name in names:
        shape = shapes[name]
        if shape is not None:
            found[name] = shape
            buffers[name].to_host(stream, shape)
    stream.synchronize()
    late = [name for name in names if name not in found]
    for name in late:
        memory, found[name] = loaded.allocation.result(name)
        buffers.reserve(name, found[name], on_device=False)
        buffers[name].to_host(stream, found[name], memory)
    if late:
        stream.synchronize()
    return {name: buffers[name].view(found[name]).copy() for name in names}
