"""What an artifact is made of, read off the file and its manifest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from exporter.engine.summary import holds_engine
from exporter.graph import specs_from_values
from exporter.write import VIEW_FILE
from runtime.errors import InvalidInput, NotFound
from runtime.external_data import external_references
from runtime.layout import FAILED_FOLDER, version_numbers
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import Manifest, read_manifest
from runtime.tensors import TensorSpec


@dataclass(frozen=True)
class ArtifactSummary:
    """An ONNX file in numbers.

    Attributes:
        operators: Nodes by operator, functions' bodies not counted twice.
        parameters: Elements of all initializers.
        manifest: Where the file lies in a repository.
        data_bytes: Of the files beside it that hold weights, as far as they are there.
    """

    file: Path
    bytes: int
    opset: int
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int]
    parameters: int
    manifest: Manifest | None
    data_bytes: int = 0


def summary_from_path(path: Path) -> ArtifactSummary:
    """Summarise an ``.onnx`` file, a version's folder or a model's folder.

    Raises:
        NotFound: Nothing of the kind is there.
        InvalidInput: The file is not ONNX.
        ManifestError: The manifest beside it cannot be read.
    """
    file = artifact_file(path)
    model = _load(file)
    beside = file.parent / MANIFEST_FILE
    nodes = Counter(node.op_type for graph in model.graphs() for node in graph)
    size = sum(value.const_value.size for value in model.graph.initializers.values()
               if value.const_value is not None)  # fmt: skip
    return ArtifactSummary(
        file=file,
        bytes=file.stat().st_size,
        opset=model.opset_imports.get("", 0),
        producer=f"{model.producer_name or 'unknown'} {model.producer_version or ''}".strip(),
        inputs=specs_from_values(model.graph.inputs),
        outputs=specs_from_values(model.graph.outputs),
        operators=dict(nodes.most_common()),
        parameters=size,
        manifest=read_manifest(beside) if beside.is_file() else None,
        data_bytes=_data_bytes(file),
    )


def _data_bytes(file: Path) -> int:
    names = {reference.file for reference in external_references(file)}
    beside = (file.parent / Path(name).name for name in sorted(names))
    return sum(path.stat().st_size for path in beside if path.is_file())


def artifact_file(path: Path) -> Path:
    """The artifact that a path means: itself, or that of a version's or model's folder.

    Raises:
        NotFound: There is nothing there that is an artifact.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise NotFound(f"{path} does not exist; give an .onnx file or REPOSITORY/NAME")
    folder = _version_folder(path)
    if (folder / MANIFEST_FILE).is_file():
        return folder / read_manifest(folder / MANIFEST_FILE).artifact.file
    files = sorted(file for file in folder.glob("*.onnx") if file.name != VIEW_FILE)
    if not files and folder != path:
        raise NotFound(_incomplete(folder))
    if not files:
        raise NotFound(f"{path} holds no version and no .onnx file; give REPOSITORY/NAME")
    return files[0]


def graph_to_look_at(artifact: Path) -> Path:
    """What Netron is to show: the view beside an artifact that has one, else the artifact.

    Raises:
        NotFound: The artifact is an engine, which Netron cannot read, and has no view.
    """
    view = artifact.with_name(VIEW_FILE)
    if view.is_file():
        return view
    if holds_engine(artifact):
        raise NotFound(
            f"{artifact} is an engine without {VIEW_FILE} beside it, so there is no graph to "
            "draw; build it again"
        )
    return artifact


def _version_folder(path: Path) -> Path:
    if numbers := version_numbers(path):
        return path / str(numbers[-1])
    if numbers := version_numbers(path / FAILED_FOLDER):
        return path / FAILED_FOLDER / str(numbers[-1])
    return path


def _incomplete(folder: Path) -> str:
    """What is missing in a version's folder, and the highest other one that is whole."""
    others = (folder.parent / str(number) for number in reversed(version_numbers(folder.parent)))
    whole = next((other for other in others if (other / MANIFEST_FILE).is_file()), None)
    return (
        f"version {folder.name} of {folder.parent} is incomplete: it has neither {MANIFEST_FILE} "
        f"nor an .onnx file; " + (f"look at another one: {whole}" if whole else "export it again")
    )


def read_onnx(file: Path, *, weights: bool = True) -> onnx.ModelProto:
    """An ONNX file.

    Args:
        file: The file.
        weights: Whether weights in files beside it are read, too.

    Raises:
        InvalidInput: It is no ONNX model, or was cut.
    """
    try:
        # Else the file's ending chooses the format: ``.json`` and ``.pbtxt`` are texts.
        proto = onnx.load(file, format="protobuf", load_external_data=weights)
    except (DecodeError, ValueError, OSError, onnx.checker.ValidationError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise InvalidInput(f"{file} is not an ONNX model: {first}") from error
    if not proto.graph.node and not proto.graph.output:
        raise InvalidInput(f"{file} is not an ONNX model: it has no graph")
    return proto


def _load(file: Path) -> ir.Model:
    proto = read_onnx(file, weights=False)
    try:
        return ir.from_proto(proto)
    except (ValueError, OSError) as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise InvalidInput(f"{file} is not an ONNX model: {first}") from error
