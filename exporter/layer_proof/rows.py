"""Errors of inner values, pooled over all samples, and the rows that they become."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from exporter.layer_proof.compare import Compared, Models, Sample, comparable
from exporter.layer_proof.forced import Calls, Pair
from exporter.layer_proof.owners import OwnedGraph
from exporter.layer_proof.records import LayerRow, NotCompared
from exporter.layer_proof.visits import Place
from runtime.error_pool import ErrorPool, Scale
from runtime.precision import FULL, RULES, Rule
from runtime.proof import is_load, judge
from runtime.proof_records import Judgement
from runtime.tensors import Array

Key = tuple[Place, str]
Pools = dict[tuple[Key, str], ErrorPool]


class Rows:
    """Pools by place and value, and by kind of input.

    Values are judged by the rule of the artifact's precision, each as an output would be.

    Attributes:
        passed: Modules that made no tensor of their own.
        missing: Modules with a tensor that no value of the graph is.
        outputs: Of the artifact as it is served, by output and kind.
    """

    def __init__(self, models: Models, graph: OwnedGraph, rule: Rule = RULES[FULL]) -> None:
        self._models, self._graph, self._rule = models, graph, rule
        self._pairs: dict[Key, Pair] = {}
        self._local: Pools = {}
        self._full: Pools = {}
        self._accumulated: Pools = {}
        self._seen: dict[int, int] = {}
        self._roots: dict[int, tuple[Mapping[str, Array], Mapping[str, Array]]] = {}
        self.passed: set[str] = set()
        self.missing: set[str] = set()
        self.outputs: dict[tuple[str, str], ErrorPool] = {}

    def same_as_plain(self, sample: Sample, values: Mapping[str, Array]) -> bool:
        """Whether a call gave, bit by bit, what it gave without optimisation."""
        return self._seen.get(sample.number) == _checksum(values)

    def add(
        self, sample: Sample, values: Mapping[str, Array], compared: Compared, *, plain: bool
    ) -> None:
        """Take one call in, read without optimisation (``plain``) or with all of it."""
        if plain:
            self._seen[sample.number] = _checksum(values)
            self.passed |= compared.pairing.passed
            self.missing |= compared.pairing.missing
            self._roots[sample.number] = compared.root
        for pair in compared.pairs:
            key = pair.place, pair.value
            self._pairs.setdefault(key, pair)
            artifact, place = values[pair.value], pair.place
            pool = _pool(self._local if plain else self._full, (key, sample.kind), compared)
            _add(pool, artifact, compared.computed[place], compared.computed32[place], compared)
            if place in compared.truth:
                pool = _pool(self._accumulated, (key, sample.kind), compared)
                _add(pool, artifact, compared.truth[place], compared.torch32[place], compared)

    def add_outputs(self, sample: Sample, answers: Mapping[str, Array]) -> None:
        """Take the outputs of the artifact as it is served in."""
        truths, torch32 = self._roots[sample.number]
        for name, key in zip(self._graph.outputs, truths, strict=False):
            if is_load(name):
                continue  # what near ties may change is for the proof of the version
            pool = self.outputs.setdefault((name, sample.kind), ErrorPool(rows=False))
            pool.add(*comparable(answers[name], truths[key], torch32[key]))

    def judged(self, extremes: Mapping[str, bool]) -> tuple[LayerRow, ...]:
        """A row for each value, in graph order; of several kinds the worst counts."""
        keys = sorted(self._pairs, key=lambda key: self._graph.position(key[1]))
        stops = {value for _, value in self._pairs}
        return tuple(self._row(key, stops, extremes) for key in keys)

    def yardsticks(self) -> dict[str, Scale]:
        """How far float32 may be from the truth at each value, over the whole way to it."""
        return {
            value: pool.scale()
            for ((_, value), _), pool in self._accumulated.items()
            if not pool.integral
        }

    def modules_of(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """Modules that these nodes are in, with their classes, in graph order."""
        paths = dict.fromkeys(self._graph.owners[i] for i in sorted(nodes))
        return tuple(
            f"{path or 'the root'} ({self._models.classes.get(path, '?').rpartition('.')[2]})"
            for path in paths
            if path is not None
        )

    def _row(self, key: Key, stops: set[str], extremes: Mapping[str, bool]) -> LayerRow:
        pair = self._pairs[key]
        place, value = key
        graph = self._graph
        nodes = [] if pair.again else graph.between(value, stops - {value})
        module, call = pair.module, pair.call
        other = pair.otherwise[0]
        if graph.owns_any(module) and any(graph.owners[i] == other for i in nodes):
            module, call = pair.otherwise
        # The sizes of axes are read off far away; what is the module's own comes first.
        nodes.sort(key=lambda i: graph.owners[i] != module)
        return LayerRow(
            module=module,
            module_class=self._models.classes[module],
            call=call,
            value=value,
            side=place.side,
            receiver=place.path if place.side == "input" else None,
            nodes=tuple(graph.nodes[i].name or f"#{i}" for i in nodes),
            operators=tuple(graph.nodes[i].op_type for i in nodes),
            joined=self._joined(pair, module, nodes),
            local=_worst(self._local, key, extremes, self._rule)
            or _worst_of(self._full, key, extremes, self._rule),
            accumulated=_worst(self._accumulated, key, extremes, self._rule),
            local_full=_worst(self._full, key, extremes, self._rule),
        )

    def _joined(self, pair: Pair, module: str, nodes: list[int]) -> tuple[str, ...]:
        """Modules folded into this value, and those that its nodes are in besides its own."""
        folded = (path for path in pair.joined if not self._graph.owns_any(path))
        owners = (self._graph.owners[i] for i in sorted(nodes))
        others = (
            path for path in (self._models.first_path.get(o or "", "") for o in owners)
            if path and path != module and not module.startswith(f"{path}.")
            and not (module and path.startswith(f"{module}."))
        )  # fmt: skip
        return tuple(dict.fromkeys([*folded, *others]))


def not_compared(
    models: Models,
    rows: Iterable[LayerRow],
    missing: Collection[str],
    counts: Mapping[str, int],
    calls: Calls,
) -> tuple[NotCompared, ...]:
    """Every module without a row, and why it has none.

    Args:
        models: The module.
        rows: All rows.
        missing: Modules with a tensor that no value of the graph is.
        counts: How often each module is called.
        calls: Nodes of each call.
    """
    rows, opened = list(rows), set(models.opened)
    there = {row.module for row in rows}
    joined = {path: row.value for row in rows for path in row.joined}
    found = []
    for path, kind in models.classes.items():
        if path in there or not path:
            continue
        if path not in opened:
            layer = next(item for item in models.closed if not item or path.startswith(f"{item}."))
            reason = f"inside '{layer or 'the root'}', a layer of experts compared as a whole"
        elif path not in counts:
            reason = "its forward is never called; whoever uses its weights is compared"
        elif calls.get(path) is None:
            reason = f"its {counts[path]} calls cannot be told apart in the graph" + (
                f"; they are judged in '{joined[path]}'" if path in joined else "")  # fmt: skip
        elif path in joined:
            reason = f"its value is not in the graph; it is judged in '{joined[path]}'"
        elif path in missing:
            reason = "none of its values is in the graph"
        else:
            reason = "it computes nothing of its own"
        found.append(NotCompared(path, kind, reason))
    return tuple(found)


def _pool(pools: Pools, key: tuple[Key, str], compared: Compared) -> ErrorPool:
    return pools.setdefault(key, ErrorPool(rows=compared.stable is not None))


def _add(
    pool: ErrorPool, artifact: Array, right: Array, right32: Array, compared: Compared
) -> None:
    pool.add(*comparable(artifact, right, right32), stable=_stable_rows(compared.stable, right))


def _stable_rows(stable: Array | None, array: Array) -> Array | None:
    """``[first axis]``: flags of the model's rows for an array of rows, or of their tokens."""
    if stable is None:
        return None
    first = array.shape[0] if array.ndim else 0
    if first and first % len(stable) == 0:
        return np.repeat(stable, first // len(stable))
    return np.full(max(first, 1), stable.all())


def _worst(pools: Pools, key: Key, extremes: Mapping[str, bool], rule: Rule) -> Judgement | None:
    judged = [
        judge(pools[key, kind], key[1], kind, extreme=extreme, rule=rule)
        for kind, extreme in extremes.items()
        if (key, kind) in pools
    ]
    return max(judged, key=_badness, default=None)


def _worst_of(pools: Pools, key: Key, extremes: Mapping[str, bool], rule: Rule) -> Judgement:
    found = _worst(pools, key, extremes, rule)
    assert found is not None  # a pair comes with a pool
    return found


def _badness(item: Judgement) -> tuple[bool, float]:
    factor = item.rms_factor if item.rms_factor is not None else 0.0
    return item.verdict != "passed", factor


def _checksum(values: Mapping[str, Array]) -> int:
    total = 0
    for name in sorted(values):
        total = zlib.crc32(np.ascontiguousarray(values[name]).tobytes(), total)
    return total
