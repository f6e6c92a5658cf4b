"""The reference that answers are compared with: ONNX Runtime on the CPU, one thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.backends.base import Backend, BackendOptions
from runtime.backends.factory import open_backend
from runtime.errors import ManifestError, RepositoryError
from runtime.golden import read_golden, replay
from runtime.layout import check_model_name
from runtime.manifest import FILE_NAME, Manifest, read_manifest
from runtime.precision import HALVES
from runtime.proof import all_passed, first_failure
from runtime.replay import check_artifact, check_sha256
from runtime.shadow.yardstick import Ground, ground_from_golden

_BACKEND = "onnxruntime"
_CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Reference:
    """A reference that has passed the proof itself.

    Attributes:
        backend: It, loaded.
        ground: Yardsticks for the version that is compared with it.
    """

    backend: Backend
    ground: Ground


Opener = Callable[[], Reference]


def reference_opener(folder: Path, manifest: Manifest, provider: str) -> Opener:
    """What opens the reference of a version.

    The reference runs the version's own ONNX artifact; that of an engine the artifact the
    engine was built from. Where the version runs on ONNX Runtime's CPU provider already,
    the reference has no graph optimisations, so that it is another computation.

    Args:
        folder: The version's folder.
        manifest: The manifest of that folder.
        provider: What the version itself runs on.

    Raises:
        RepositoryError: There is no evidence to measure by, or no ONNX artifact.
    """
    if manifest.evidence is None:
        raise RepositoryError("it carries no evidence, so there is nothing to measure drift by")
    evidence, source_folder, source = manifest.evidence, folder, manifest
    engine = manifest.artifact.engine
    if engine is not None:
        source_folder = _source_folder(folder, engine.onnx)
        source = read_manifest(source_folder / FILE_NAME)
        if source.artifact.sha256 != engine.onnx_sha256:
            raise RepositoryError(
                f"{engine.onnx} is not the artifact that the engine was built from; "
                "build the engine again"
            )
    if source.artifact.format != "onnx":
        raise RepositoryError(f"its artifact is {source.artifact.format}; wanted onnx")
    halves = source.artifact.precision in HALVES
    options = BackendOptions(optimised=provider != _CPU, layouts=not halves)

    def open_reference() -> Reference:
        check_sha256(folder / evidence.file, evidence.sha256)
        golden = read_golden(folder / evidence.file)
        backend = open_backend(_BACKEND, check_artifact(source_folder, source), options)
        judgements = replay(
            golden, backend.infer, max_batch_size=source.max_batch_size,
            precision=source.artifact.precision,
        )  # fmt: skip
        ordinary = [item for item in judgements if not item.extreme]
        if not all_passed(ordinary):
            reason = first_failure(ordinary) or "its evidence has no ordinary samples"
            raise RepositoryError(f"the reference fails the proof itself: {reason}")
        return Reference(backend, ground_from_golden(golden, ordinary))

    return open_reference


def _source_folder(folder: Path, onnx: str) -> Path:
    """Folder of a version that a manifest names as ``model/number``, in the same repository."""
    name, _, number = onnx.partition("/")
    if not number.isdecimal():
        raise ManifestError(f"the engine names '{onnx[:80]}' as its source; wanted model/number")
    check_model_name(name)
    return folder.parents[1] / name / number
