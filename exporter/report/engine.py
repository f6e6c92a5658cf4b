"""What is known of an engine: how it was built, its layers, the proof of what it came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from exporter.engine.layers import FILE_NAME, EngineNetwork, read_network
from exporter.report.words import without_folders
from runtime.backends.plan import FLAVOURS
from runtime.errors import RepositoryError
from runtime.layout import FAILED_FOLDER
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import EngineRecord, Manifest, read_manifest


@dataclass(frozen=True)
class EngineFacts:
    """An engine beyond its manifest.

    Attributes:
        record: How it was built.
        title: Of the library, as NVIDIA writes it.
        network: The built network; none where it was not kept.
        kinds: Its layers by kind, most frequent first.
        trouble: Why there is no network.
        source: Manifest of the version it was built from; none where that is not there
            any more, or is another one by now.
    """

    record: EngineRecord
    title: str
    network: EngineNetwork | None
    kinds: tuple[tuple[str, int], ...]
    trouble: str
    source: Manifest | None
    source_folder: Path | None


def engine_facts(folder: Path, manifest: Manifest) -> EngineFacts | None:
    """Gather what lies beside an engine; none where the artifact is no engine."""
    record = manifest.artifact.engine
    if record is None:
        return None
    network, trouble = None, ""
    try:
        network = read_network(folder / FILE_NAME)
    except RepositoryError as error:
        trouble = without_folders(str(error), folder)
    kinds = Counter(layer.kind for layer in network.layers) if network else Counter[str]()
    source_folder = _source_folder(folder, record)
    return EngineFacts(
        record=record,
        title=FLAVOURS[record.flavour].title,
        network=network,
        kinds=tuple(kinds.most_common()),
        trouble=trouble,
        source=read_manifest(source_folder / MANIFEST_FILE) if source_folder else None,
        source_folder=source_folder,
    )


def _source_folder(folder: Path, record: EngineRecord) -> Path | None:
    """Where the ONNX version lies, if it is still the one that the engine was built from."""
    model = folder.parent.parent if folder.parent.name == FAILED_FOLDER else folder.parent
    name, _, version = record.onnx.partition("/")
    if not version.isdecimal() or name in ("", ".", ".."):
        return None
    there = model.parent / name / version
    try:
        same = read_manifest(there / MANIFEST_FILE).artifact.sha256 == record.onnx_sha256
    except RepositoryError:
        return None
    return there if same else None
