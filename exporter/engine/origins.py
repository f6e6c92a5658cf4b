"""Which ONNX node and which torch module a thing of the network comes from, by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

from runtime.manifest import ModuleOrigin


@dataclass(frozen=True)
class Module:
    """A torch module: its path, empty for the root, and its class."""

    path: str
    class_name: str

    def __str__(self) -> str:
        return self.path or f"the root, {self.class_name.rpartition('.')[2]}"


class Origins:
    """Names of one ONNX graph, those in the bodies of its loops and branches included."""

    def __init__(self, model: ModelProto, module_map: Mapping[str, ModuleOrigin]) -> None:
        """Read the graph's names.

        Args:
            model: The graph; its weights are not looked at.
            module_map: Of the manifest, by the name of a value.
        """
        self.nodes = {node.name: node for node in nodes_of(model.graph) if node.name}
        self._outer = {
            inner.name: node.name
            for node in self.nodes.values() for body in bodies_of(node) for inner in body.node
        }  # fmt: skip
        self._map = module_map
        self._classes = {item.module: item.module_class for item in module_map.values()}

    def module_of_node(self, name: str) -> Module | None:
        """The module that a node is in; that of the loop or branch where it says none itself."""
        node = self.nodes.get(name)
        outputs = [] if node is None else node.output
        found = (self.module_of_value(value) for value in outputs)
        module = next((module for module in found if module), None) or self._by_prefix(name)
        outer = self._outer.get(name)
        return module if module or not outer else self.module_of_node(outer)

    def module_of_value(self, name: str) -> Module | None:
        """The module that gives a value."""
        origin = self._map.get(name)
        if origin is not None:
            return Module(origin.module, origin.module_class)
        return self._by_prefix(name)

    def _by_prefix(self, name: str) -> Module | None:
        """Nodes in the place of a layer of experts begin with its path: ``blocks.0.moe/Add``."""
        path, slash, _ = name.partition("/")
        return Module(path, self._classes[path]) if slash and path in self._classes else None


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes, each before those of its own bodies."""
    for node in graph.node:
        yield node
        for body in bodies_of(node):
            yield from nodes_of(body)


def bodies_of(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a loop or a branch holds."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs
