"""The module's side of a layer proof: what it computes on the artifact's values, and on its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from exporter.layer_proof.forced import Calls, Following, Pair, Pairing
from exporter.layer_proof.owners import OwnedGraph
from exporter.layer_proof.visits import Events, Place, aliases, open_modules, visiting
from exporter.source import Source
from exporter.truth import Truth, torch_float32
from runtime.errors import ExportError
from runtime.golden import Case, Golden
from runtime.proof import ROUTING_MARGIN
from runtime.tensors import Array

_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Sample:
    """One call of a layer proof.

    Attributes:
        number: Among all calls.
        samples: Rows, or 1 where a whole call is a sample.
        further: Whether another of its kind came before.
    """

    number: int
    kind: str
    inputs: Mapping[str, Array]
    samples: int
    further: bool


class Taken:
    """What of the evidence is run.

    Attributes:
        extremes: Whether a kind is an extreme one.
        run: Samples that were run so far; set by whoever runs them.
    """

    def __init__(self, golden: Golden, rows: int, kinds: tuple[str, ...] = ()) -> None:
        """Take about ``rows`` samples of each kind; the ordinary kinds where none are named."""
        self._golden, self._rows = golden, rows
        cases = [case for case in golden.cases
                 if (case.kind in kinds if kinds else not case.extreme)]  # fmt: skip
        self._cases = cases or list(golden.cases)
        self.extremes = {case.kind: case.extreme for case in self._cases}
        self.run = 0

    def samples(self, most: int | None = None) -> Iterator[Sample]:
        """The calls, one of each kind first; not beyond ``most`` samples."""
        number, given = 0, 0
        left = dict.fromkeys(self.extremes, self._rows)
        for turn, case in self._in_turns():
            if left[case.kind] <= 0 or (most is not None and given >= most):
                continue
            inputs, samples = self._cut(case)
            left[case.kind] -= samples
            given += samples
            yield Sample(number, case.kind, inputs, samples, further=turn > 0)
            number += 1

    def _in_turns(self) -> list[tuple[int, Case]]:
        turns: dict[str, int] = {}
        numbered = []
        for case in self._cases:
            turn = turns.get(case.kind, 0)
            turns[case.kind] = turn + 1
            numbered.append((turn, case))
        return sorted(numbered, key=lambda item: item[0])

    def _cut(self, case: Case) -> tuple[dict[str, Array], int]:
        arrays = case.arrays()
        if not self._golden.batchable:
            return arrays, 1
        rows = min(case.rows(), self._rows)
        return {name: np.ascontiguousarray(a[:rows]) for name, a in arrays.items()}, rows


class Models:
    """The module in float64 and in float32, to be run with visits."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.truth = Truth(source.module)
        self.torch32 = torch_float32(source.module)
        self.closed = [layer.path for layer in source.experts.layers]
        self.aliases = aliases(source.module)
        self.first_path = {other: path for path, others in self.aliases.items() for other in others}
        self.classes = {
            path: f"{type(module).__module__}.{type(module).__qualname__}"
            for path, module in source.module.named_modules()
        }

    @property
    def opened(self) -> list[str]:
        """Paths of the modules that are looked into."""
        return list(open_modules(self.source.module, self.closed))

    def count_calls(self, inputs: Mapping[str, Array]) -> dict[str, int]:
        """How often each module is called, by its path, in the order of the first calls.

        Raises:
            ExportError: The module fails on the inputs.
        """
        counts: dict[str, int] = {}

        def entered(path: str, call: int) -> None:
            counts[path] = call + 1

        events = Events(entered, lambda _path, _call, _passed: None)
        try:
            with visiting(self.source.module, lambda _: {}, events, self.closed):
                self.torch32(inputs)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise ExportError(
                f"the module fails on the evidence's inputs: {type(error).__name__}: {first[:200]}"
            ) from error
        return counts


@dataclass(frozen=True)
class Compared:
    """All arrays of one call, by place.

    Attributes:
        computed: In float64 on the artifact's values.
        computed32: In float32 on the same.
        truth: In float64 on its own values; empty where it was not asked for.
        torch32: In float32 on its own values.
        root: What the whole module gives, in float64 and in float32; where ``truth`` is there.
        stable: ``[rows]`` whether the routing is; none without layers of experts.
    """

    pairing: Pairing
    computed: Mapping[Place, Array]
    computed32: Mapping[Place, Array]
    truth: Mapping[Place, Array] = field(default_factory=dict)
    torch32: Mapping[Place, Array] = field(default_factory=dict)
    root: tuple[Mapping[str, Array], Mapping[str, Array]] = ({}, {})
    stable: Array | None = None

    @property
    def pairs(self) -> list[Pair]:
        """In the order of execution."""
        return self.pairing.pairs


def compared_call(
    models: Models,
    graph: OwnedGraph,
    calls: Calls,
    inputs: Mapping[str, Array],
    values: Mapping[str, Array],
    *,
    accumulated: bool,
    lost: bool = False,
) -> Compared:
    """Run the module on one call's inputs, forced to the artifact's values and on its own.

    Args:
        models: The module.
        graph: The artifact.
        calls: Nodes of the module's calls.
        inputs: Of the call.
        values: The artifact's inner values and outputs, and the inputs.
        accumulated: Whether the run on its own values is wanted.
        lost: Whether modules without a node are taken as lost, not as folded into the next.
    """
    pairing = Pairing(graph, calls, values, lost)
    with visiting(models.truth.module, pairing.visit, pairing.events, models.closed):
        models.truth(inputs)
    margin = models.truth.margin
    names = {pair.place: pair.value for pair in pairing.pairs}
    forced = Following(names, values)
    with visiting(models.source.module, forced.visit, closed=models.closed):
        models.torch32(inputs)
    wide, narrow = Following(names), Following(names)
    root: tuple[Mapping[str, Array], Mapping[str, Array]] = ({}, {})
    if accumulated:
        with visiting(models.truth.module, wide.visit, closed=models.closed):
            truth = models.truth(inputs)
        with visiting(models.source.module, narrow.visit, closed=models.closed):
            root = truth, models.torch32(inputs)
    stable = None if margin is None else margin > ROUTING_MARGIN
    return Compared(
        pairing,
        pairing.computed,
        forced.computed,
        wide.computed,
        narrow.computed,
        root,
        stable,
    )


def comparable(artifact: Array, right: Array, right32: Array) -> tuple[Array, Array, Array]:
    """The three sides of a pool, so that what no float32 program can do is not asked for.

    An inner value may be NaN on all sides (a row that is masked whole), or the least number
    of its type (a mask). A whole number may be that of either precision.
    """
    if right.dtype.kind != "f":
        return artifact, np.where(artifact == right32, right32, right), right32
    narrow = right32.astype(np.float64)
    truth = np.where(np.abs(right) > _LARGEST, narrow, right)
    wide = artifact.astype(np.float64)
    nothing = np.isnan(wide) & np.isnan(truth) & np.isnan(narrow)
    if nothing.any():
        wide, truth, narrow = (np.where(nothing, 0.0, side) for side in (wide, truth, narrow))
    return wide, truth, narrow
