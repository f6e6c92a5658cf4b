"""A proved ONNX file becomes a serialised engine; the calls that TensorRT wants, in order."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.engine.faults import fault_from_log
from exporter.engine.layers import EngineNetwork
from exporter.engine.library import Library
from exporter.engine.listen import Unwatched, Watch, interruptible, monitor_of
from exporter.engine.network import check_ends, network_from_parsed
from exporter.engine.options import EngineOptions, known_capabilities
from exporter.engine.origins import Origins
from exporter.engine.parse import Session, load_onnx, open_session, parsed_network
from exporter.engine.timing_cache import give_timing_cache, keep_timing_cache
from runtime.errors import ExportError
from runtime.manifest import Manifest, ProfileShape

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class BuiltEngine:
    """A plan, and the network that it was built from."""

    plan: bytes
    network: EngineNetwork


def engine_from_onnx(
    library: Library,
    artifact: Path,
    manifest: Manifest,
    profiles: Sequence[Sequence[ProfileShape]],
    options: EngineOptions,
    watch: Watch | None = None,
) -> BuiltEngine:
    """Build an engine.

    Args:
        library: What builds it.
        artifact: The ONNX file.
        manifest: Of that file: its inputs, outputs and module map.
        profiles: A shape for each input with a free axis, by profile; none without such.
        options: How.
        watch: Told how it goes on.

    Raises:
        ExportError: Parser or builder refuses; the text names the node and the cure.
        KeyboardInterrupt: Ctrl-C, once the builder has stopped.
    """
    origins = Origins(load_onnx(artifact), manifest.module_map)
    session = open_session(library)
    parsed = parsed_network(session, artifact, origins)
    _check_shape_inputs(parsed.network)
    network = network_from_parsed(parsed.network, origins)
    check_ends(network, manifest.inputs, manifest.outputs)
    config = configured(session, options)
    _add_profiles(session, config, profiles, origins)

    def build(cancel: threading.Event) -> bytes:
        monitor = monitor_of(library, watch or Unwatched(), cancel)
        config.progress_monitor = monitor
        session.errors.clear()
        plan = session.builder.build_serialized_network(parsed.network, config)
        if plan is None:
            if cancel.is_set():
                raise ExportError("the build was cancelled")
            fault = fault_from_log(session.errors, origins)
            raise ExportError(f"{library.title} cannot build the engine: {fault}")
        return bytes(memoryview(plan))

    plan = interruptible(build)
    keep_timing_cache(config, options.timing_cache)
    return BuiltEngine(plan, network)


def _check_shape_inputs(network: trt.INetworkDefinition) -> None:
    """Inputs whose values are sizes need a range of values, and no manifest has one."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise ExportError(
                f"the values of input '{tensor.name}' are sizes inside the graph, and no range "
                "of them is declared; make it a constant of the module"
            )


def configured(session: Session, options: EngineOptions) -> trt.IBuilderConfig:
    """A configuration of the builder as the options want it.

    Raises:
        ExportError: The library does not follow one of them.
        InvalidInput: The timing cache is not one of this library and GPU.
    """
    library = session.library
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.api
    config = session.builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    # The inspector can tell layers and their nodes only from a plan that keeps them.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_tf32(config, trt.BuilderFlag.TF32, wanted=options.tf32)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.hardware_compatibility != "none":
        level = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
        config.hardware_compatibility_level = level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.compute_capabilities:
        _set_targets(config, library, options.compute_capabilities)
    give_timing_cache(config, options.timing_cache)
    return config


def _set_tf32(config: trt.IBuilderConfig, flag: trt.BuilderFlag, *, wanted: bool) -> None:
    """TF32 is on by default, and rounds products to 10 bits."""
    if wanted:
        config.set_flag(flag)
    else:
        config.clear_flag(flag)
    if config.get_flag(flag) != wanted:
        raise ExportError(f"TF32 cannot be switched {'on' if wanted else 'off'} in this library")


def _set_targets(config: Any, library: Library, capabilities: Sequence[str]) -> None:
    """Only TensorRT-RTX has these calls, so the signatures of the full library lack them."""
    words = known_capabilities(library)
    config.num_compute_capabilities = len(capabilities)
    for index, item in enumerate(capabilities):
        target = getattr(library.api.ComputeCapability, words[item])
        if not config.set_compute_capability(target, index):
            raise ExportError(f"{library.title} does not build for compute capability {item}")


def _add_profiles(
    session: Session,
    config: trt.IBuilderConfig,
    profiles: Sequence[Sequence[ProfileShape]],
    origins: Origins,
) -> None:
    for number, shapes in enumerate(profiles):
        profile = session.builder.create_optimization_profile()
        for item in shapes:
            profile.set_shape(item.input, item.smallest, item.optimal, item.largest)
        if config.add_optimization_profile(profile) != number:
            fault = fault_from_log(session.errors, origins)
            raise ExportError(f"{session.library.title} refuses profile {number}: {fault.text}")
