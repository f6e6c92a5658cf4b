"""One side of a comparison: what lies at a path, read as far as it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from exporter.engine.summary import holds_engine
from exporter.layer_proof.owners import OwnedGraph
from exporter.summary import artifact_file, read_onnx
from runtime.backends.base import Backend, BackendOptions
from runtime.backends.factory import open_backend
from runtime.commands.parity import open_version
from runtime.errors import InvalidInput, RepositoryError
from runtime.golden import Golden, read_golden
from runtime.layout import model_names, version_numbers
from runtime.manifest import FILE_NAME, Manifest, ModuleOrigin, read_manifest


@dataclass(frozen=True)
class Side:
    """An artifact.

    Attributes:
        manifest: Where it lies in a repository.
        model: The graph with its weights; none of an engine.
        graph: The same by modules.
    """

    file: Path
    manifest: Manifest | None
    model: onnx.ModelProto | None
    graph: OwnedGraph | None

    @property
    def name(self) -> str:
        """``lenet5/2``, or the file's name."""
        if self.manifest is None:
            return self.file.name
        return f"{self.manifest.name}/{self.manifest.version}"

    @property
    def origins(self) -> Mapping[str, ModuleOrigin]:
        """The module map; empty where nothing is known."""
        return self.manifest.module_map if self.manifest else {}

    def golden(self) -> Golden | None:
        """The evidence, where there is some.

        Raises:
            RepositoryError: It cannot be read.
        """
        if self.manifest is None or self.manifest.evidence is None:
            return None
        return read_golden(self.file.parent / self.manifest.evidence.file)

    def open(self) -> Backend:
        """Load it as it is served.

        Raises:
            RepositoryError: It was changed after its proof, or the library cannot load it.
            BackendUnavailable: Its library or device is not here.
        """
        if self.manifest is not None:
            return open_version(self.file.parent, self.manifest, BackendOptions())
        return open_backend("onnxruntime", self.file)


def side_from_path(path: Path) -> Side:
    """Read an ``.onnx`` file, a version's folder, ``REPOSITORY/NAME``, or a repository of one.

    Raises:
        NotFound: Nothing of the kind is there.
        InvalidInput: The file is not ONNX and no version's engine, or several models are meant.
        ManifestError: The manifest beside it cannot be read.
    """
    file = artifact_file(_model_folder(path))
    beside = file.parent / FILE_NAME
    manifest = read_manifest(beside) if beside.is_file() else None
    if not file.is_file():
        raise RepositoryError(f"{file}, which its manifest names, is missing; export again")
    if holds_engine(file):
        if manifest is None:
            raise InvalidInput(
                f"{file} is an engine without a manifest, so nothing is known of it; give the "
                "folder of its version"
            )
        return Side(file, manifest, None, None)
    model = read_onnx(file)
    graph = OwnedGraph(model, manifest.module_map if manifest else {})
    return Side(file, manifest, model, graph)


def _model_folder(path: Path) -> Path:
    """The one model of a repository, where a repository was given."""
    if not path.is_dir() or (path / FILE_NAME).is_file() or version_numbers(path):
        return path
    names = [name for name in model_names(path) if version_numbers(path / name)]
    if len(names) > 1:
        raise InvalidInput(f"{path} holds {', '.join(names)}; give one of them: {path / names[0]}")
    return path / names[0] if names else path
