"""Load one version: check its files, open the backend, replay its proof, judge readiness."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from runtime.backends.base import Backend, BackendOptions
from runtime.backends.factory import canonical_name, known_backends, open_backend
from runtime.errors import InvalidInput, RepositoryError, TwinportError, Unavailable
from runtime.experts.feed import LoadFeed
from runtime.experts.store import LoadStore
from runtime.instances import devices_of
from runtime.manifest import FILE_NAME, LOAD_OUTPUT, Manifest, read_manifest
from runtime.model import Model, ModelRecord
from runtime.model_config import ModelFacts, with_batch_axis
from runtime.precision import HALVES
from runtime.replay import Replayed, check_artifact, made_again, replay_version
from runtime.reshape import on_wire
from runtime.serving_config import (
    DEFAULT_BACKEND,
    DEFAULT_FILENAMES,
    ServingConfig,
    batching_of,
    check_file_name,
    complete_config,
    merged_specs,
    reshapes_of,
)
from runtime.shadow.reference import reference_opener
from runtime.shadow.settings import ShadowSettings
from runtime.shadow.shadow import Shadow
from runtime.tensors import Array, TensorSpec
from runtime.verdicts import VerdictStore
from runtime.warmup import warm_up

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded.

    Attributes:
        backend: Device and threads.
        allow_unproved: Whether a version is served whose proof is missing or fails here.
        verdicts: Where verdicts are kept.
        shadow: Which share of answers is checked; none where no answer is.
        loads: Where the load of experts is counted; none where it is not.
    """

    backend: BackendOptions
    allow_unproved: bool
    verdicts: VerdictStore
    shadow: ShadowSettings | None = None
    loads: LoadStore | None = None


def load_version(folder: Path, number: int, config: ServingConfig, options: LoadOptions) -> Model:
    """Load one version and run its proof again on the backend that is really there.

    A file that was changed after the proof is refused in any case; a version that was never
    proved, or whose replay fails, only where ``allow_unproved`` is not set.

    Args:
        folder: The version's folder.
        number: Its number.
        config: The model's configuration.
        options: How to load.

    Raises:
        RepositoryError: The files are not as they must be.
        BackendUnavailable: The library or the device is missing.
        Unavailable: The version is not proved on this backend and device.
    """
    manifest_path = folder / FILE_NAME
    manifest = read_manifest(manifest_path) if manifest_path.exists() else None
    name = config.backend or (backend_of(manifest) if manifest else "") or DEFAULT_BACKEND
    if manifest is not None:
        check_backend(name, manifest)
    artifact = _artifact(folder, config, manifest, name)
    backends: list[Backend] = []
    try:
        for device in devices_of(config.instances, options.backend.device):
            own = replace(backend_options(options.backend, manifest), device=device)
            backends.append(_opened(name, artifact, config.session.applied(own), manifest))
        # Each instance is proved, which also warms it up.
        verdicts = [_proved(folder, manifest, backend, options) for backend in backends]
        replayed, unproved = next((item for item in verdicts if item[1]), verdicts[0])
        config = replace(config, backend=name)
        record = _record(folder, number, config, manifest, backends[0], artifact.name)
        for backend in backends:
            warm_up(
                partial(_answer, backend, record),
                config.warmups, record.inputs,
                max_batch_size=record.max_batch_size, folder=folder.parent,
            )  # fmt: skip
    except Exception:
        for backend in backends:
            backend.close()
        raise
    if unproved:
        logger.warning("%s/%d is served unproved: %s", config.name, number, unproved)
    record = replace(record, replayed=replayed, unproved=unproved)
    loads = _loads(record, options.loads)
    return Model(
        record, backends, _shadow(folder, record, options.shadow), loads,
        lambda: options.loads.release(loads) if options.loads and loads else None,
    )  # fmt: skip


def _opened(
    name: str, artifact: Path, options: BackendOptions, manifest: Manifest | None
) -> Backend:
    """Load an artifact; one that nothing has run yet may be of a kind that nothing here runs."""
    try:
        return open_backend(name, artifact, options)
    except RepositoryError as error:
        proof = manifest.proof if manifest else None
        if manifest is None or proof is None or proof.verdict != "pending":
            raise
        raise Unavailable(
            f"its proof is pending and {manifest.artifact.precision} cannot run here: {error}"
        ) from error


def _answer(backend: Backend, record: ModelRecord, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return backend.infer(record.reshapes.fed(arrays))


def backend_of(manifest: Manifest) -> str:
    """What runs an artifact where no ``config.pbtxt`` says it; empty for a format not known."""
    artifact = manifest.artifact
    if artifact.engine is not None:
        return artifact.engine.flavour
    return DEFAULT_BACKEND if artifact.format == "onnx" else ""


def check_backend(backend: str, manifest: Manifest) -> None:
    """Refuse a ``config.pbtxt`` that wants another backend than the artifact is for.

    Raises:
        RepositoryError: It does; one that this release does not know is left to the factory.
    """
    proved = backend_of(manifest)
    if proved and canonical_name(backend) in set(known_backends()) - {proved}:
        raise RepositoryError(
            f"config.pbtxt has backend '{backend}', the manifest says that "
            f"'{manifest.artifact.file}' is for '{proved}'; write backend: '{proved}', or "
            f"{made_again(manifest)}"
        )


def backend_options(options: BackendOptions, manifest: Manifest | None) -> BackendOptions:
    """``options``, with what the manifest alone knows of the artifact."""
    engine = manifest.artifact.engine if manifest else None
    return replace(
        options,
        newer_library=engine is not None and engine.version_compatible,
        layouts=manifest is None or manifest.artifact.precision not in HALVES,
    )


def _shadow(folder: Path, record: ModelRecord, settings: ShadowSettings | None) -> Shadow | None:
    """The checks on a version's answers; a version that has no reference is served without."""
    if settings is None or not settings.share:
        return None
    name = f"{record.name}/{record.version}"
    try:
        if record.manifest is None:
            raise RepositoryError("it has no manifest")
        opener = reference_opener(folder, record.manifest, record.identity.provider)
    except TwinportError as error:
        logger.warning("the answers of %s are not checked: %s", name, error)
        return None
    return Shadow(settings, opener, name=name, has_load=LOAD_OUTPUT in record.outputs)


def _loads(record: ModelRecord, store: LoadStore | None) -> LoadFeed | None:
    """What counts the load of experts, of a version that gives it in the form that is known."""
    spec = record.outputs.get(LOAD_OUTPUT)
    if store is None or not store.share or spec is None or LOAD_OUTPUT in record.reshapes.outputs:
        return None
    if spec.dtype != "int32" or len(spec.shape) != 3:
        return None
    _, layers, experts = spec.shape
    if isinstance(layers, str) or isinstance(experts, str):
        return None
    manifest = record.manifest
    key = ""
    if manifest is not None:
        key = f"{record.name}-{record.version}-{manifest.artifact.sha256[:32]}"
    return store.feed(f"{record.name}/{record.version}", key, layers, experts)


def _artifact(folder: Path, config: ServingConfig, manifest: Manifest | None, backend: str) -> Path:
    if manifest is None:
        default = DEFAULT_FILENAMES.get(canonical_name(backend), "model.engine")
        place = folder / (config.filename or default)
        # As in Triton: a folder with the model in it, and what belongs to that.
        return place / default if place.is_dir() else place
    name = check_file_name(manifest.artifact.file, folder / FILE_NAME)
    if config.filename and config.filename != name:
        raise RepositoryError(
            f"config.pbtxt wants the file '{config.filename}', the manifest proves '{name}'; "
            f"{made_again(manifest)}"
        )
    if manifest.evidence is not None:
        check_file_name(manifest.evidence.file, folder / FILE_NAME)
    return check_artifact(folder, manifest)


def _proved(
    folder: Path, manifest: Manifest | None, backend: Backend, options: LoadOptions
) -> tuple[Replayed | None, str]:
    """What the replay found, and why the version is unproved; empty where it passed."""
    replayed, reason = None, "the version has no manifest"
    if manifest is not None:
        replayed, reason = _replayed(folder, manifest, backend, options.verdicts)
    if reason and not options.allow_unproved:
        raise Unavailable(
            f"not proved on {backend.identity.provider} here: {reason}; "
            "--unproved allow serves it all the same"
        )
    return replayed, reason


def _replayed(
    folder: Path, manifest: Manifest, backend: Backend, verdicts: VerdictStore
) -> tuple[Replayed, str]:
    try:
        replayed = replay_version(folder, manifest, backend)
    except RepositoryError as error:
        return Replayed("pending", (), backend.identity, str(error)), str(error)
    if replayed.verdict == "pending":
        return replayed, replayed.reason
    past = verdicts.last(manifest, backend.identity)
    verdicts.keep(manifest, replayed)
    if replayed.verdict == "passed":
        return replayed, ""
    reason = replayed.reason
    if past is not None and past.verdict == "passed":
        reason += (
            f" (the same files passed here on {past.when}; "
            "a driver, a setting or the machine has changed)"
        )
    return replayed, reason


def _record(
    folder: Path,
    number: int,
    config: ServingConfig,
    manifest: Manifest | None,
    backend: Backend,
    filename: str,
) -> ModelRecord:
    """What is served: the artifact's tensors, as manifest and configuration have them too."""
    found_inputs, found_outputs = backend.inputs, backend.outputs
    if manifest is not None:
        cure = made_again(manifest)
        found_inputs = _as_in_manifest(found_inputs, manifest.inputs, "input", cure)
        found_outputs = _as_in_manifest(found_outputs, manifest.outputs, "output", cure)
    max_batch_size = config.max_batch_size
    if max_batch_size is None:
        max_batch_size = manifest.max_batch_size if manifest else 0
    inputs = merged_specs(found_inputs, config.inputs, "input", all_of_them=True)
    outputs = merged_specs(found_outputs, config.outputs, "output", all_of_them=False)
    if max_batch_size and manifest is None:
        # Exporters give axis 0 another name, or none, in each tensor.
        inputs, outputs = with_batch_axis(inputs), with_batch_axis(outputs)
    try:
        facts = ModelFacts(
            config.name, config.backend, filename, max_batch_size,
            tuple(inputs.values()), tuple(outputs.values()),
        )  # fmt: skip
    except InvalidInput as error:
        raise RepositoryError(f"config.pbtxt: {error}") from error
    complete = complete_config(config, facts)
    reshapes = reshapes_of(complete, facts)
    return ModelRecord(
        name=config.name,
        version=number,
        inputs=on_wire(inputs, reshapes.inputs),
        outputs=on_wire(outputs, reshapes.outputs),
        reshapes=reshapes,
        max_batch_size=max_batch_size,
        identity=backend.identity,
        config=complete,
        manifest=manifest,
        on_request=manifest.on_request if manifest else (),
        ranges=manifest.ranges if manifest else {},
        batching=batching_of(config, max_batch_size, proved=_joinable(manifest)),
        labels=_labels(folder.parent, config, manifest, outputs),
    )


def _labels(
    folder: Path,
    config: ServingConfig,
    manifest: Manifest | None,
    outputs: Mapping[str, TensorSpec],
) -> dict[str, tuple[str, ...]]:
    """Names of classes: from the files of the configuration, else from the manifest.

    The manifest does not say of which output they are: of each that has as many values.
    """
    labels: dict[str, tuple[str, ...]] = {}
    if manifest is not None and manifest.labels is not None:
        count = len(manifest.labels)
        fitting = (name for name, spec in outputs.items() if spec.shape[-1:] == (count,))
        labels = dict.fromkeys(fitting, manifest.labels)
    for output, file in config.label_files.items():
        path = folder / file
        try:
            labels[output] = tuple(path.read_text(encoding="utf-8").splitlines())
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(f"the labels {path} cannot be read: {error}") from error
    return labels


def _joinable(manifest: Manifest | None) -> bool | None:
    """What the proof says of joined requests; none without one."""
    return manifest.proof.batchable if manifest is not None and manifest.proof else None


def _as_in_manifest(
    found: Mapping[str, TensorSpec], stated: tuple[TensorSpec, ...], kind: str, cure: str
) -> dict[str, TensorSpec]:
    """The manifest's tensors, which name the free axes, once they are the artifact's."""
    theirs = {spec.name: spec for spec in stated}
    for name in {**found, **theirs}:
        ours, other = found.get(name), theirs.get(name)
        if ours is None or other is None or _on_wire(ours) != _on_wire(other):
            raise RepositoryError(
                f"the artifact has {kind} '{name}' as {ours}, the manifest as {other}; {cure}"
            )
    return theirs


def _on_wire(spec: TensorSpec) -> tuple[str, tuple[int, ...]]:
    return spec.dtype, spec.wire_shape
