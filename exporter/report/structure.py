"""What the artifact is made of, and how much of it each torch module gave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from exporter.summary import ArtifactSummary, graph_to_look_at, summary_from_path
from runtime.errors import InvalidInput
from runtime.manifest import Manifest, ModuleOrigin

ROOT = "(the whole module)"


@dataclass(frozen=True)
class ModuleRow:
    """One module of the tree; its numbers are those of everything below it, too.

    Attributes:
        path: In the module tree; empty for the root.
        depth: Zero for the root.
        name: Its last part.
        module_class: Without its package; empty where no node came from it itself.
        operators: Nodes of the graph, most frequent first.
    """

    path: str
    depth: int
    name: str
    module_class: str
    parameters: int
    operators: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Structure:
    """The ONNX file in numbers.

    Attributes:
        summary: Of the file itself.
        modules: The tree, a module before what is below it.
    """

    summary: ArtifactSummary
    modules: tuple[ModuleRow, ...]


def structure_of(artifact: Path, manifest: Manifest) -> Structure:
    """Read the ONNX file of a version.

    Raises:
        NotFound: It is not there.
        InvalidInput: It is not ONNX.
    """
    summary = summary_from_path(artifact)
    return Structure(summary, module_rows(manifest.module_map, graph_to_look_at(artifact)))


def module_rows(origins: Mapping[str, ModuleOrigin], file: Path) -> tuple[ModuleRow, ...]:
    """The module tree with what each module became in the graph of ``file``.

    Initializers go to the module whose path their name begins with, floats without one to
    the root; integers without one are sizes and places that the exporter wrote.

    Raises:
        InvalidInput: The file is not ONNX.
    """
    graph = _graph(file)
    own_operators: dict[str, Counter[str]] = {}
    for node in graph.node:
        origin = next((origins[name] for name in node.output if name in origins), None)
        if origin is not None:
            own_operators.setdefault(origin.module, Counter())[node.op_type] += 1
    paths = _with_parents(origin.module for origin in origins.values())
    own_parameters: Counter[str] = Counter()
    for tensor in graph.initializer:
        owner = _owner(tensor.name, paths)
        if owner or tensor.data_type in _FLOATS:
            own_parameters[owner] += _elements(tensor)
    classes = {origin.module: origin.module_class for origin in origins.values()}
    return tuple(_row(path, paths, classes, own_parameters, own_operators) for path in paths)


_FLOATS = frozenset(
    (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16,
     onnx.TensorProto.DOUBLE)
)  # fmt: skip


def _graph(file: Path) -> onnx.GraphProto:
    try:
        return onnx.load(file, format="protobuf", load_external_data=False).graph
    except Exception as error:  # protobuf's own errors share no base with the system's
        raise InvalidInput(f"{file.name} is not an ONNX model") from error


def _with_parents(modules: Iterable[str]) -> list[str]:
    """Every module and those above it: the tree from the root, as the graph meets it."""
    first: dict[str, int] = {}
    for turn, path in enumerate(modules):
        parts = path.split(".") if path else []
        for end in range(len(parts) + 1):
            first.setdefault(".".join(parts[:end]), turn)

    def place(path: str) -> list[tuple[int, str]]:
        parts = path.split(".") if path else []
        above = (".".join(parts[: end + 1]) for end in range(len(parts)))
        return [(first[item], item) for item in above]

    return sorted(first, key=place)


def _owner(name: str, paths: list[str]) -> str:
    matching = (path for path in paths if path and name.startswith(f"{path}."))
    return max(matching, key=len, default="")


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _row(
    path: str,
    paths: list[str],
    classes: Mapping[str, str],
    parameters: Mapping[str, int],
    operators: Mapping[str, Counter[str]],
) -> ModuleRow:
    below = [other for other in paths if other == path or not path or other.startswith(f"{path}.")]
    nodes: Counter[str] = Counter()
    for other in below:
        nodes.update(operators.get(other, {}))
    return ModuleRow(
        path=path,
        depth=path.count(".") + 1 if path else 0,
        name=path.rpartition(".")[2] or ROOT,
        module_class=classes.get(path, "").rpartition(".")[2],
        parameters=sum(parameters.get(other, 0) for other in below),
        operators=tuple(nodes.most_common()),
    )
