"""An ONNX graph by torch modules: which nodes a call made, what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from exporter.engine.origins import Origins, bodies_of
from runtime.manifest import ModuleOrigin

Nodes = Sequence[int]
"""Positions in the graph."""


class OwnedGraph:
    """Nodes in graph order, with the module that each is in.

    Attributes:
        nodes: As the file has them.
        inputs: Names of the graph's inputs.
        outputs: Names of the graph's outputs.
        owners: The module's path by node; none where no module is known.
        producer: Position of the node that gives a value.
    """

    def __init__(self, model: ModelProto, module_map: Mapping[str, ModuleOrigin]) -> None:
        """Read the graph; its weights are not looked at.

        Args:
            model: The graph.
            module_map: Of the manifest, by the name of a value.
        """
        graph = model.graph
        constants = {item.name for item in graph.initializer}
        origins = Origins(model, module_map)
        self.nodes: list[NodeProto] = list(graph.node)
        self.inputs = [item.name for item in graph.input if item.name not in constants]
        self.outputs = [item.name for item in graph.output]
        self.owners = [_owner(node, origins, module_map) for node in self.nodes]
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        self._reads = [tuple(dict.fromkeys(_read_by(node))) for node in self.nodes]
        self._readers: dict[str, list[int]] = {}
        for position, names in enumerate(self._reads):
            for name in names:
                self._readers.setdefault(name, []).append(position)
        self._varying = self._depending_on_inputs()

    def position(self, value: str) -> int:
        """Where a value comes into being; before all nodes where it is an input."""
        return self.producer.get(value, -1)

    def calls(self, paths: Collection[str], count: int) -> list[list[int]] | None:
        """Nodes of each of ``count`` calls of the module that goes by ``paths``.

        Torch notes the module and not the call, so several calls are told apart by the
        nodes of other modules between them, or else by the repeating operators.

        Returns:
            Positions by call, none where the calls cannot be told apart.
        """
        own = [i for i, owner in enumerate(self.owners) if _within(owner, paths)]
        if count == 1:
            return [own]
        runs = self._runs(own)
        if len(runs) == count:
            return runs
        if not own or len(own) % count:
            return None
        length = len(own) // count
        chunks = [own[start : start + length] for start in range(0, len(own), length)]
        kinds = {tuple(self.nodes[i].op_type for i in chunk) for chunk in chunks}
        return chunks if len(kinds) == 1 else None

    def exits(self, nodes: Nodes) -> list[str]:
        """Values that these nodes give to others or to the graph's end, in graph order."""
        inside, ends = set(nodes), set(self.outputs)
        return [
            name
            for position in nodes
            for name in self.nodes[position].output
            if name and self._varies(name)
            and (name in ends or any(i not in inside for i in self._readers.get(name, ())))
        ]  # fmt: skip

    def entries(self, nodes: Nodes) -> list[str]:
        """Values that these nodes take from others, or from the graph's inputs, as first read."""
        inside = set(nodes)
        read = (name for position in nodes for name in self._reads[position])
        return [
            name
            for name in dict.fromkeys(read)
            if self._varies(name) and self.producer.get(name, -1) not in inside
        ]

    def between(self, value: str, stops: Collection[str]) -> list[int]:
        """Positions of the nodes that make ``value`` out of ``stops`` and the inputs."""
        return [i for i in self.made_of(value, stops) if self._varying[i]]

    def made_of(self, value: str, stops: Collection[str]) -> list[int]:
        """The same with the nodes that depend on no input."""
        found: set[int] = set()
        wanted = [value]
        while wanted:
            position = self.producer.get(wanted.pop())
            if position is None or position in found:
                continue
            found.add(position)
            wanted += [name for name in self._reads[position] if name not in stops]
        return sorted(found)

    def owns_any(self, path: str) -> bool:
        """Whether any node is in the module at ``path``."""
        return any(_within(owner, (path,)) for owner in self.owners)

    def read_by(self, nodes: Nodes) -> set[str]:
        """All values that nodes read, weights included."""
        return {name for position in nodes for name in self._reads[position]}

    def _runs(self, own: Nodes) -> list[list[int]]:
        """Cut where a node of another module lies between; nodes without one do not cut."""
        runs: list[list[int]] = []
        for position in own:
            last = runs[-1][-1] if runs else None
            if last is None or any(self.owners[i] is not None for i in range(last + 1, position)):
                runs.append([])
            runs[-1].append(position)
        return runs

    def _depending_on_inputs(self) -> list[bool]:
        varying: list[bool] = []
        known = set(self.inputs)
        for position, node in enumerate(self.nodes):
            varying.append(any(name in known for name in self._reads[position]))
            if varying[-1]:
                known.update(node.output)
        return varying

    def _varies(self, name: str) -> bool:
        position = self.producer.get(name)
        return name in self.inputs if position is None else self._varying[position]


def _owner(node: NodeProto, origins: Origins, module_map: Mapping[str, ModuleOrigin]) -> str | None:
    """The module whose value a node gives: of several in one node the last."""
    names = [name for name in node.output if name]
    known = next((module_map[name] for name in names if name in module_map), None)
    if known is not None and known.fused:
        return known.fused[-1]
    found = (origins.module_of_value(name) for name in names)
    module = next((module for module in found if module is not None), None)
    return None if module is None else module.path


def _within(owner: str | None, paths: Collection[str]) -> bool:
    return owner is not None and any(
        not path or owner == path or owner.startswith(f"{path}.") for path in paths
    )


def _read_by(node: NodeProto) -> Iterator[str]:
    """Values that a node reads, those that its bodies take from outside included."""
    yield from (name for name in node.input if name)
    for body in bodies_of(node):
        ends: list[ValueInfoProto] = list(body.input)
        weights: list[TensorProto] = list(body.initializer)
        own = {item.name for item in ends} | {item.name for item in weights}
        own.update(name for inner in body.node for name in inner.output)
        for inner in body.node:
            yield from (name for name in _read_by(inner) if name not in own)
        yield from (item.name for item in body.output if item.name not in own)
