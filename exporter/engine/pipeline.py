"""The main flow from a proved version to an engine beside it in the repository."""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from exporter.engine.build import BuiltEngine, engine_from_onnx
from exporter.engine.layers import FILE_NAME as LAYERS_FILE
from exporter.engine.layers import network_to_text
from exporter.engine.library import Library, open_library
from exporter.engine.options import EngineOptions, check_options
from exporter.engine.profiles import checked_profiles
from exporter.engine.progress import BuildView
from exporter.engine.proved import ProvedVersion, check_evidence, proved_version
from exporter.engine.record import (
    ENGINE_FILE,
    check_precision,
    engine_manifest,
    pending_proof,
    proof_from_replay,
    with_plan,
)
from exporter.engine.view import view_of_network
from exporter.write import VIEW_FILE, Written, check_shared_files, publish_version, writable
from runtime.backends import cuda
from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.backends.plan import read_header
from runtime.errors import BackendUnavailable, ExportError
from runtime.layout import check_model_name, staged_folder
from runtime.manifest import Manifest, ProfileShape
from runtime.proof_records import Proof
from runtime.replay import replay_version


@dataclass(frozen=True)
class EngineRequest:
    """One engine.

    Attributes:
        model: ``REPOSITORY/NAME`` of a proved ONNX version, or that version's folder.
        version: Its number; the highest where none is given.
        flavour: ``tensorrt`` or ``tensorrt_rtx``; the one that is installed, the full one first.
        name: The engine's name in the repository; the model's with the flavour's ending.
        options: How it is built.
    """

    model: Path
    version: int | None = None
    flavour: str | None = None
    name: str | None = None
    options: EngineOptions = field(default_factory=EngineOptions)


def build_engine(request: EngineRequest, view: BuildView) -> Written:
    """Build an engine from a proved version, prove it where a GPU is, write it beside.

    Args:
        request: What, with what and how.
        view: Told how it goes on.

    Returns:
        The version's folder and manifest; in ``failed/N`` where the engine is another model.

    Raises:
        TwinportError: Nothing was written; the text says why.
        KeyboardInterrupt: Ctrl-C; nothing was written.
    """
    library = open_library(request.flavour)
    check_options(request.options, library)
    source = proved_version(request.model, request.version)
    given = source.manifest
    profiles = checked_profiles(request.options.profiles, given.inputs, source.ranges)
    check_evidence(source, profiles)
    name = check_model_name(request.name or f"{given.name}{library.flavour.suffix}")
    folder = source.repository / name
    writable(source.repository)
    manifest = engine_manifest(name, source, library, profiles, request.options, gpu_name())
    check_shared_files(folder, manifest, source.label_output)
    with staged_folder(folder) as staging:
        view.note(f"building {name} from {source.name} with {library.title}")
        shapes = _profiles_of(manifest)
        built = engine_from_onnx(library, source.artifact, given, shapes, request.options, view)
        check_precision(manifest, built.network)
        manifest = _write_files(staging, source, manifest, built)
        proof = _proof(staging, source, manifest, library)
        manifest = replace(manifest, proofs=(proof,))
        return publish_version(staging, folder, manifest, source.label_output)


def gpu_name() -> str | None:
    """The GPU that engines are built on here; none where there is none."""
    return None if cuda.device_problem() else str(cuda.gpu())


def _profiles_of(manifest: Manifest) -> tuple[tuple[ProfileShape, ...], ...]:
    assert manifest.artifact.engine is not None
    return manifest.artifact.engine.profiles


def _write_files(
    staging: Path, source: ProvedVersion, manifest: Manifest, built: BuiltEngine
) -> Manifest:
    """The engine, what is known of its layers, and the evidence of the source as it is.

    Raises:
        ExportError: The plan is not one of the library that was asked.
    """
    assert manifest.artifact.engine is not None
    flavour = manifest.artifact.engine.flavour
    (staging / ENGINE_FILE).write_bytes(built.plan)
    header = read_header(staging / ENGINE_FILE)
    if header.flavour.name != flavour:
        raise ExportError(f"{flavour} gave a plan of {header.flavour.title}; this is a defect")
    (staging / LAYERS_FILE).write_text(network_to_text(built.network), encoding="utf-8")
    view = view_of_network(built.network, flavour)
    (staging / VIEW_FILE).write_bytes(view.SerializeToString(deterministic=True))
    shutil.copyfile(source.folder / source.evidence.file, staging / source.evidence.file)
    return with_plan(manifest, built.plan)


def _proof(staging: Path, source: ProvedVersion, manifest: Manifest, library: Library) -> Proof:
    """Replay the evidence on the GPU of this machine; pending where it cannot run the engine."""
    problem = _why_not_here(manifest)
    if problem:
        return pending_proof(library, source, problem)
    options = BackendOptions(device="cuda", engine_code=True)  # it was built a moment ago
    try:
        backend = open_backend(library.flavour.name, staging / ENGINE_FILE, options)
    except BackendUnavailable as error:
        return pending_proof(library, source, str(error))
    began = time.perf_counter()
    with closing(backend):
        replayed = replay_version(staging, manifest, backend)
    return proof_from_replay(library, source, replayed, time.perf_counter() - began)


def _why_not_here(manifest: Manifest) -> str | None:
    """Why this machine cannot run the engine; none where it is to be tried."""
    problem = cuda.device_problem()
    targets = manifest.artifact.engine.compute_capabilities if manifest.artifact.engine else ()
    if problem or not targets:
        return problem
    gpu = cuda.gpu()
    here = ".".join(map(str, gpu.compute_capability))
    return None if here in targets else f"it is for {', '.join(targets)}, here is {gpu}"
