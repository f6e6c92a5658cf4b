"""What the manifest says of an engine: how it was built, and that its proof is still to come."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version

from exporter.engine.layers import EngineNetwork
from exporter.engine.library import Library
from exporter.engine.options import EngineOptions
from exporter.engine.profiles import Profile, covered_ranges, profile_shapes
from exporter.engine.proved import ProvedVersion
from runtime.errors import ExportError
from runtime.manifest import Artifact, EngineRecord, Manifest
from runtime.proof_records import Proof
from runtime.replay import Replayed

ENGINE_FILE = "model.engine"
NOT_RUN = "none"
"""In the place of the provider and the device of a proof that nothing has run."""

_QUANTISE = "QUANTIZE"
"""TensorRT's word for the kind of layer."""
_FLOATS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def engine_manifest(
    name: str,
    source: ProvedVersion,
    library: Library,
    profiles: Sequence[Profile],
    options: EngineOptions,
    built_on: str | None,
) -> Manifest:
    """The manifest of an engine before it is built; hash, proof and version come later.

    Args:
        name: Of the model in the repository.
        source: What it is built from.
        library: What builds it.
        profiles: The sizes it takes.
        options: How it is built.
        built_on: The GPU of this machine; none where there is none.
    """
    given = source.manifest
    ranges = covered_ranges(profiles)
    batch = source.batch_axis
    engine = EngineRecord(
        flavour="tensorrt" if library.flavour.name == "tensorrt" else "tensorrt_rtx",
        version=library.version,
        onnx=source.name,
        onnx_sha256=given.artifact.sha256,
        profiles=tuple(profile_shapes(profile, given.inputs) for profile in profiles),
        tf32=options.tf32,
        optimization_level=options.optimization_level,
        workspace_bytes=options.workspace_bytes,
        hardware_compatibility=options.hardware_compatibility,
        version_compatible=options.version_compatible,
        compute_capabilities=options.compute_capabilities,
        built_on=built_on,
    )
    producers = {library.flavour.name: library.version}
    return replace(
        given,
        name=name,
        version=0,  # publish_version knows it
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        artifact=Artifact(
            file=ENGINE_FILE,
            sha256="",
            format="engine",
            precision=given.artifact.precision,
            opset=given.artifact.opset,
            producers={**given.artifact.producers, "twinport": version("twinport"), **producers},
            engine=engine,
        ),
        ranges=ranges,
        max_batch_size=ranges[batch][1] if batch is not None else 0,
        proofs=(),
    )


def with_plan(manifest: Manifest, plan: bytes) -> Manifest:
    """The manifest with the hash of its engine."""
    digest = hashlib.sha256(plan).hexdigest()
    return replace(manifest, artifact=replace(manifest.artifact, sha256=digest))


def check_precision(manifest: Manifest, network: EngineNetwork) -> None:
    """Refuse a network whose types are not those that the manifest states.

    Networks are strongly typed, so the types of the graph are those of the engine.

    Raises:
        ExportError: The stated type is nowhere, or fp32 has a lower one somewhere.
    """
    wanted = _FLOATS.get(manifest.artifact.precision)
    found = {tensor.dtype for layer in network.layers for tensor in layer.outputs}
    quantised = any(layer.kind == _QUANTISE for layer in network.layers)
    if manifest.artifact.precision == "int8" and not quantised:
        raise ExportError(
            "the manifest states int8, the network quantises nothing; export the model again"
        )
    floats = {dtype for dtype in found if "float" in dtype}
    if wanted is None or not floats or (wanted in floats and len(floats) == 1):
        return
    if wanted not in floats or wanted == "float32":
        raise ExportError(
            f"the manifest states {manifest.artifact.precision}, the network computes in "
            f"{', '.join(sorted(floats))}; export the model again"
        )


def pending_proof(library: Library, source: ProvedVersion, why: str) -> Proof:
    """A proof that nothing has run yet; what it says of joining requests is the source's."""
    return replace(_unjudged(library, source), verdict="pending", reason=_pending(why))


def proof_from_replay(
    library: Library, source: ProvedVersion, replayed: Replayed, seconds: float
) -> Proof:
    """What replaying the evidence on this machine's GPU has found."""
    identity = replayed.identity
    return replace(
        _unjudged(library, source),
        verdict=replayed.verdict,
        backend=identity.backend,
        provider=identity.provider,
        device=identity.device,
        library=identity.library,
        seconds=round(seconds, 2),
        judgements=replayed.judgements,
        reason=replayed.reason,
    )


def _pending(why: str) -> str:
    return f"it was not run here ({why}); its evidence is replayed at the first start on a GPU"


def _unjudged(library: Library, source: ProvedVersion) -> Proof:
    given = source.proof
    return Proof(
        verdict="pending",
        backend=library.flavour.name,
        provider=NOT_RUN,
        device=NOT_RUN,
        library=f"{library.flavour.name} {library.version}",
        truth=given.truth,
        truth_operators=given.truth_operators,
        batchable=given.batchable,
        batchable_reason=f"as {source.name} on {given.provider}: {given.batchable_reason}",
        batch_sizes=(),
        axis_sizes={},
        seed=given.seed,
        seconds=0.0,
        cut_by_budget=False,
        judgements=(),
        warnings=_warnings(library, source),
        allowed=given.allowed,
    )


def _warnings(library: Library, source: ProvedVersion) -> tuple[str, ...]:
    given = tuple(f"of {source.name}: {warning}" for warning in source.proof.warnings)
    if library.traits.triton:
        return given
    no_triton = (
        f"Triton Inference Server has no backend '{library.flavour.name}' and cannot load this "
        "engine; twinport serve can"
    )
    return (*given, no_triton)
