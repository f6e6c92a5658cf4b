"""Put one version into the model repository: whole, proved, or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.errors import RepositoryError
from runtime.golden import FILE_NAME as GOLDEN_FILE
from runtime.golden import Golden, golden_to_bytes
from runtime.layout import CONFIG_FILE, LABELS_FILE, next_version, publish, write_atomically
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import Evidence, Manifest, manifest_to_text
from runtime.model_config import ModelFacts, config_to_write

VIEW_FILE = "view.onnx"
"""Looked at in the artifact's place: layers of experts as one node each, or an engine's."""


@dataclass(frozen=True)
class Written:
    """Where a version lies now, and its manifest.

    Attributes:
        engine: The engine that was built from it, where one was asked for.
        lower: Versions of lower precisions beside it, as asked for.
    """

    folder: Path
    manifest: Manifest
    engine: Written | None = None
    lower: tuple[Written, ...] = ()


def write_version(
    staging: Path, folder: Path, manifest: Manifest, golden: Golden, label_output: str | None
) -> Written:
    """Fill the staging folder, which holds the artifact, and rename it into place.

    A version whose proof failed goes to ``failed/N`` and leaves the shared files alone.

    Args:
        staging: From ``runtime.layout.staged_folder``.
        folder: The model's folder in the repository.
        manifest: Its version and evidence are filled in here.
        golden: The evidence.
        label_output: The output that ``labels.txt`` is for.

    Raises:
        RepositoryError: The shared configuration is another, or the disk refuses.
    """
    data = golden_to_bytes(golden)
    (staging / GOLDEN_FILE).write_bytes(data)
    evidence = Evidence(GOLDEN_FILE, hashlib.sha256(data).hexdigest(), golden.samples())
    return publish_version(staging, folder, replace(manifest, evidence=evidence), label_output)


def publish_version(
    staging: Path, folder: Path, manifest: Manifest, label_output: str | None
) -> Written:
    """Write the manifest of a staging folder that holds the rest, and rename it into place.

    Args:
        staging: From ``runtime.layout.staged_folder``.
        folder: The model's folder in the repository.
        manifest: Its version is filled in here.
        label_output: The output that ``labels.txt`` is for.

    Raises:
        RepositoryError: The shared configuration is another, or the disk refuses.
    """
    complete = replace(manifest, version=next_version(folder))
    (staging / MANIFEST_FILE).write_text(manifest_to_text(complete), encoding="utf-8")
    failed = complete.proof is None or complete.proof.verdict == "failed"
    if failed:
        return Written(publish(staging, folder, complete.version, failed=True), complete)
    with _shared_files(folder, complete, label_output):
        return Written(publish(staging, folder, complete.version), complete)


def check_shared_files(folder: Path, manifest: Manifest, label_output: str | None) -> None:
    """Refuse a version that does not fit the model's shared files, before it is made.

    Raises:
        RepositoryError: The configuration or the labels that are there are others.
    """
    _shared_texts(folder, manifest, label_output)


def _shared_texts(
    folder: Path, manifest: Manifest, label_output: str | None
) -> dict[str, str | None]:
    """What has to be written; none where a file that fits is there."""
    facts = _facts(folder.name, manifest, label_output)
    return {
        LABELS_FILE: _labels_to_write(folder, manifest),
        CONFIG_FILE: config_to_write(folder / CONFIG_FILE, facts),
    }


@contextmanager
def _shared_files(folder: Path, manifest: Manifest, label_output: str | None) -> Iterator[None]:
    """``config.pbtxt`` and ``labels.txt`` where they are not there yet; not if the block fails."""
    made: list[Path] = []
    try:
        for name, text in _shared_texts(folder, manifest, label_output).items():
            if text is not None:
                made.append(folder / name)
                write_atomically(folder / name, text)
        yield
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise


def _facts(name: str, manifest: Manifest, label_output: str | None) -> ModelFacts:
    engine = manifest.artifact.engine
    labelled = {label_output: LABELS_FILE} if manifest.labels and label_output else {}
    return ModelFacts(
        name=name,
        backend=engine.flavour if engine else "onnxruntime",
        filename=manifest.artifact.file,
        max_batch_size=manifest.max_batch_size,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        label_files=labelled,
    )


def _labels_to_write(folder: Path, manifest: Manifest) -> str | None:
    if not manifest.labels:
        return None
    path, text = folder / LABELS_FILE, "\n".join(manifest.labels) + "\n"
    if not path.exists():
        return text
    if path.read_text(encoding="utf-8") != text:
        raise RepositoryError(
            f"{path} has other labels than this model; export it under another name (--name)"
        )
    return None


def writable(repository: Path) -> None:
    """Refuse a repository that cannot take a version, before any work is done.

    Raises:
        RepositoryError: It is a file, or a folder that cannot be written.
    """
    nearest = next(path for path in (repository, *repository.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise RepositoryError(f"{nearest} is a file; the repository must be a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise RepositoryError(f"the repository {repository} cannot be written")
