"""Which nodes of a graph a library's parser takes, and why not the others.

The parser stops at the first node that it does not take. So that node is cut out, what it
gives becomes an input of the graph, and the rest is parsed again until all is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto

from exporter.engine.faults import Fault
from exporter.engine.library import open_library
from exporter.engine.origins import Origins, bodies_of, nodes_of
from exporter.engine.parse import Session, first_fault, load_onnx, open_session
from exporter.engine.proved import version_folder
from runtime.errors import RepositoryError
from runtime.manifest import FILE_NAME, ModuleOrigin, read_manifest
from runtime.replay import check_artifact

TAKEN, REFUSED, UNKNOWN = "taken", "refused", "unknown"


@dataclass(frozen=True)
class NodeCheck:
    """One node of the graph, or of the body of a loop or branch in it.

    Attributes:
        node: Its name; a number in its place where it has none.
        operator: With the domain, where it is not ONNX's own.
        verdict: ``taken``, ``refused``, or ``unknown`` where it cannot be asked about.
        reason: Why it is not taken; empty where it is.
        module: Path of the torch module.
        within: The loop or branch that it is in; empty for nodes of the graph itself.
        cure: What to do.
    """

    node: str
    operator: str
    verdict: str
    reason: str = ""
    module: str | None = None
    within: str = ""
    cure: str = ""


@dataclass(frozen=True)
class Checked:
    """All nodes, in the order of the graph."""

    model: str
    flavour: str
    version: str
    nodes: tuple[NodeCheck, ...]

    def count(self, verdict: str) -> int:
        """How many nodes have a verdict."""
        return sum(item.verdict == verdict for item in self.nodes)


def check_model(model: Path, version: int | None = None, flavour: str | None = None) -> Checked:
    """Ask a library about every node of a version, or of an ``.onnx`` file.

    Raises:
        TwinportError: There is no such version or library, or the file is no graph.
    """
    library = open_library(flavour)
    file, origins_of_values = _graph_of(model, version)
    graph = load_onnx(file)
    _name_nodes(graph)
    origins = Origins(graph, origins_of_values)
    faults = _Asked(open_session(library), file, origins).faults(graph)
    checks = tuple(_checks(graph, faults, origins))
    return Checked(str(model), library.flavour.name, library.version, checks)


def _graph_of(model: Path, version: int | None) -> tuple[Path, Mapping[str, ModuleOrigin]]:
    if model.is_file():
        return model, {}
    folder = version_folder(model, version)
    if not (folder / FILE_NAME).is_file():
        raise RepositoryError(f"{folder} has no {FILE_NAME}; give its .onnx file to be checked")
    manifest = read_manifest(folder / FILE_NAME)
    if manifest.artifact.engine is not None:
        raise RepositoryError(f"{folder} is an engine; check {manifest.artifact.engine.onnx}")
    return check_artifact(folder, manifest), manifest.module_map


def _name_nodes(model: ModelProto) -> None:
    """Give nodes without a name of their own one; the parser says names only."""
    taken: set[str] = set()
    for number, node in enumerate(nodes_of(model.graph)):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        taken.add(node.name)


@dataclass(frozen=True)
class _Said:
    """Of one node of the graph itself: the parser's fault, or why it was not asked."""

    fault: Fault
    asked: bool = True


@dataclass
class _Asked:
    """Asks again and again, each time about what is left."""

    session: Session
    file: Path
    origins: Origins

    def faults(self, model: ModelProto) -> dict[str, _Said]:
        """By name, what is to be said of the graph's nodes; of all others: they are taken."""
        rest = ModelProto()
        rest.CopyFrom(model)
        types, said = _types(model), dict[str, _Said]()
        while fault := first_fault(self.session, rest.SerializeToString(), self.file, self.origins):
            node = _outermost(rest, fault)
            if node is None:
                said |= {item.name: _Said(fault, asked=False) for item in rest.graph.node}
                break
            said[node.name] = _Said(fault)
            for name in _cut(rest, node, types):
                said[name] = _Said(_behind(node), asked=False)
        return said


def _types(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Types of the values whose rank is known."""
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # ValueError: beyond two gigabytes
        graph = model.graph
    infos = (*graph.value_info, *graph.output)
    return {info.name: info for info in infos if info.type.tensor_type.HasField("shape")}


def _outermost(model: ModelProto, fault: Fault) -> NodeProto | None:
    """The node of the graph itself that a fault is in."""
    name = fault.within or fault.node
    for node in model.graph.node:
        inner = (item.name for body in bodies_of(node) for item in nodes_of(body))
        if node.name == name or name in inner:
            return node
    return None


def _cut(model: ModelProto, node: NodeProto, types: Mapping[str, ValueInfoProto]) -> list[str]:
    """Take a node out; give the names of others that have to go, since a type is not known."""
    graph = model.graph
    lost = {name for name in node.output if name}
    graph.input.extend(types[name] for name in sorted(lost) if name in types)
    graph.node.remove(node)
    missing, gone = {name for name in lost if name not in types}, list[str]()
    for other in list(graph.node):
        if missing.intersection(_reads(other)):
            gone.append(other.name)
            missing.update(other.output)
            graph.node.remove(other)
    kept = [info for info in graph.output if info.name not in lost | missing]
    del graph.output[:]
    graph.output.extend(kept)
    return gone


def _reads(node: NodeProto) -> Iterator[str]:
    yield from node.input
    for body in bodies_of(node):
        for inner in nodes_of(body):
            yield from inner.input


def _behind(node: NodeProto) -> Fault:
    return Fault(node.name, node.op_type, f"it needs what the refused node '{node.name}' gives")


def _checks(
    model: ModelProto, faults: Mapping[str, _Said], origins: Origins
) -> Iterator[NodeCheck]:
    refused = {
        value: node.name for node in model.graph.node if node.name in faults
        for value in node.output
    }  # fmt: skip
    for node in model.graph.node:
        said = faults.get(node.name)
        sources = sorted({refused[name] for name in _reads(node) if name in refused})
        yield _check(node, said, origins, sources)
        for body in bodies_of(node):
            for inner in nodes_of(body):
                yield _inner_check(inner, node, said, origins)


def _check(node: NodeProto, said: _Said | None, origins: Origins, sources: list[str]) -> NodeCheck:
    module = origins.module_of_node(node.name)
    path, operator = module.path if module else None, _operator(node)
    if said is None:
        return NodeCheck(node.name, operator, TAKEN, module=path)
    fault, reason = said.fault, said.fault.text
    if said.asked and fault.node != node.name:
        reason = f"'{fault.node}' ({fault.operator}) inside it: {reason}"
    if said.asked and sources:
        reason += f" (it was asked without the refused node '{sources[0]}', which it needs)"
    verdict = REFUSED if said.asked else UNKNOWN
    cure = fault.cure if said.asked else ""
    return NodeCheck(node.name, operator, verdict, reason, path, "", cure)


def _inner_check(
    node: NodeProto, outer: NodeProto, said: _Said | None, origins: Origins
) -> NodeCheck:
    """In the body that the parser gave up in, only the node that it names is known."""
    module = origins.module_of_node(node.name) or origins.module_of_node(outer.name)
    path, operator = module.path if module else None, _operator(node)
    if said is None:
        return NodeCheck(node.name, operator, TAKEN, "", path, outer.name)
    if said.asked and said.fault.node == node.name:
        fault = said.fault
        return NodeCheck(node.name, operator, REFUSED, fault.text, path, outer.name, fault.cure)
    reason = f"the parser refuses '{outer.name}', which it is in"
    return NodeCheck(node.name, operator, UNKNOWN, reason, path, outer.name)


def _operator(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type
