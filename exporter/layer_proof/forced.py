"""One call of the module with the artifact's inner values in the place of its own.

What a module gives is noted, then replaced by what the artifact has there. So each module
computes on the artifact's own input values, and what is noted is wrong by its own error only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from exporter.layer_proof.matching import assigned, same_kind
from exporter.layer_proof.owners import OwnedGraph
from exporter.layer_proof.visits import Events, Place
from exporter.truth import to_array
from runtime.tensors import Array

Calls = Mapping[str, list[list[int]] | None]
"""Positions of a module's nodes by call, by its path; none where they cannot be told apart."""


@dataclass(frozen=True)
class Pair:
    """A place of the module, and the value that the artifact has there.

    Attributes:
        module: The path of the module that is answerable.
        call: Which call of it.
        otherwise: The module and call that are, should ``module`` have no part in the value.
        joined: Modules before whose own values the graph does not have.
        again: Whether the value was compared at another place before.
    """

    place: Place
    value: str
    module: str
    call: int
    otherwise: tuple[str, int]
    joined: tuple[str, ...] = ()
    again: bool = False


@dataclass
class Pairing:
    """Finds the pairs of one call while the module runs, and forces the artifact's values.

    A module without a node in the graph was folded into the next one (BatchNorm into a
    convolution), or is lost. What the next one takes is then no value of the graph, though
    one of its shape is read there, so its input is left as it is computed.

    Attributes:
        lost: Take modules without a node as lost all the same: the next one's input is what
            the graph has there.
        pairs: In the order of execution.
        computed: What the module gave at each place, on the artifact's own inputs.
        passed: Modules that made no tensor of their own.
        missing: Called modules with a tensor that no value of the graph is.
    """

    graph: OwnedGraph
    calls: Calls
    values: Mapping[str, Array]
    lost: bool = False
    pairs: list[Pair] = field(default_factory=list)
    computed: dict[Place, Array] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    _stack: list[tuple[str, int]] = field(default_factory=list)
    _open: list[tuple[str, int]] = field(default_factory=list)
    """Modules that computed something since the last value that was replaced."""
    _replaced: bool = False

    @property
    def events(self) -> Events:
        """What the pairing wants to be told."""
        return Events(self._entered, self._left)

    def visit(self, tensors: Mapping[Place, torch.Tensor]) -> dict[Place, torch.Tensor]:
        """Pair the tensors of one side of a call and give the artifact's values for them."""
        first = next(iter(tensors))
        if first.path == "" and first.side == "input":
            return dict(tensors)  # the artifact got the same
        arrays = {place: to_array(tensor) for place, tensor in tensors.items()}
        found = self._found(first, arrays)
        own = self._own(first)
        answerable = self._answerable(first, own)
        others: dict[Place, torch.Tensor] = {}
        for place, name in found.items():
            others[place] = forced(tensors[place], self.values[name])
            again = any(pair.value == name for pair in self.pairs)
            if again and np.array_equal(arrays[place], to_array(others[place]), equal_nan=True):
                continue  # what was compared before, come by another way
            self.computed[place] = arrays[place]
            joined = tuple(path for path, _ in self._open if path != answerable[0])
            self.pairs.append(Pair(place, name, *answerable, own, joined, again))
        if found:
            self._open.clear()
            self._replaced = first.side == "output"
        return others

    def _found(self, first: Place, arrays: Mapping[Place, Array]) -> dict[Place, str]:
        if first.path == "":
            ends = self.graph.outputs
            return {
                place: ends[place.leaf]
                for place, array in arrays.items()
                if place.leaf < len(ends) and same_kind(array, self.values[ends[place.leaf]])
            }
        calls = self.calls.get(first.path)
        if calls is None or first.call >= len(calls):
            return {}
        if first.side == "input" and not self.lost and any(map(self._without_nodes, self._open)):
            return {}
        nodes = calls[first.call]
        side = self.graph.entries if first.side == "input" else self.graph.exits
        return assigned(arrays, side(nodes), self.values)

    def _without_nodes(self, call: tuple[str, int]) -> bool:
        groups = self.calls.get(call[0])
        return groups is not None and call[1] < len(groups) and not groups[call[1]]

    def _own(self, place: Place) -> tuple[str, int]:
        """The module that gives an output; the caller for what goes in."""
        if place.side == "output":
            return place.path, place.call
        return self._stack[-2] if len(self._stack) > 1 else ("", 0)

    def _answerable(self, place: Place, own: tuple[str, int]) -> tuple[str, int]:
        """The last module before whose own value was not met, or who is asked anyway."""
        if not self._open:
            return own
        last = self._open[-1]
        inside = not place.path or last[0].startswith(f"{place.path}.")
        return last if place.side == "input" or inside else own

    def _entered(self, path: str, call: int) -> None:
        self._stack.append((path, call))

    def _left(self, path: str, call: int, passed: bool) -> None:
        self._stack.pop()
        replaced, self._replaced = self._replaced, False
        if passed:
            self.passed.add(path)
        elif not replaced and path:
            self.missing.add(path)
            if not any(item[0].startswith(f"{path}.") for item in self._open):
                self._open.append((path, call))


@dataclass
class Following:
    """Notes the same places in another run, and forces the same values where there are some."""

    pairs: Mapping[Place, str]
    values: Mapping[str, Array] | None = None
    computed: dict[Place, Array] = field(default_factory=dict)

    def visit(self, tensors: Mapping[Place, torch.Tensor]) -> dict[Place, torch.Tensor]:
        """Note, and replace where values are given."""
        others: dict[Place, torch.Tensor] = {}
        for place, tensor in tensors.items():
            if place.path == "" and place.side == "input":
                others[place] = tensor
            elif place in self.pairs:
                self.computed[place] = to_array(tensor)
                if self.values is not None:
                    others[place] = forced(tensor, self.values[self.pairs[place]])
        return others


def forced(tensor: torch.Tensor, value: Array) -> torch.Tensor:
    """The artifact's value in the type of the module's own tensor."""
    wide = value.astype(np.float64) if tensor.is_floating_point() else value
    return torch.from_numpy(np.array(wide, order="C")).to(tensor.dtype)


def wanted_values(graph: OwnedGraph, calls: Calls) -> list[str]:
    """All values that may be paired: what goes into a call and what comes out, in graph order."""
    names: set[str] = set(graph.outputs)
    for groups in calls.values():
        for nodes in groups or ():
            names.update(graph.entries(nodes), graph.exits(nodes))
    return sorted(names - set(graph.inputs), key=graph.position)


def grouped_calls(
    graph: OwnedGraph, counts: Mapping[str, int], aliases: Mapping[str, Iterable[str]]
) -> dict[str, list[list[int]] | None]:
    """Nodes of every call of every module but the root.

    Args:
        graph: The artifact.
        counts: How often each module is called.
        aliases: All paths of each module.
    """
    return {
        path: graph.calls(set(aliases.get(path, (path,))), count)
        for path, count in counts.items()
        if path
    }
