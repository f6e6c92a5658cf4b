"""The layer proof: the first module that is not what it was, and the error as it builds up.

Each module is run again in float64 on the artifact's own input values; what it differs by is
its local error, judged as whole outputs are (``runtime.proof``): against the same module's own
float32 error on the same values.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from exporter.layer_proof.bisect import Probe, find_fused
from exporter.layer_proof.compare import Compared, Models, Sample, Taken, compared_call
from exporter.layer_proof.forced import grouped_calls, wanted_values
from exporter.layer_proof.inner import (
    Open,
    full_runtime,
    opened,
    plain_runtime,
    with_outputs,
)
from exporter.layer_proof.owners import OwnedGraph
from exporter.layer_proof.records import LayerProof, LayerRow
from exporter.layer_proof.rows import Rows, not_compared
from exporter.source import Source
from exporter.summary import read_onnx
from runtime.golden import Golden
from runtime.manifest import ModuleOrigin
from runtime.precision import FULL as PRECISION
from runtime.precision import RULES, Rule
from runtime.proof import first_failure, judge
from runtime.proof_records import Judgement
from runtime.tensors import Array

PLAIN, FULL = "no optimisation", "full optimisation"


@dataclass(frozen=True)
class LayerOptions:
    """How a layer proof is made.

    Attributes:
        rows: Samples of each kind, about; calls of the evidence are longer at most.
        budget_s: Seconds after which no more samples are begun; one of each kind is.
        kinds: Kinds of input to run; the ordinary ones of the evidence where none are named.
        plain: Builds an artifact whose inner values are read as the graph is written.
        full: Builds it as it is served.
        piece: Builds pieces when a fault is sought that only the fused graph has; ``full``
            where none is given.
        rule: That of the artifact's precision, by which modules and outputs are judged.
    """

    rows: int = 8
    budget_s: float = 20.0
    kinds: tuple[str, ...] = ()
    plain: Open = plain_runtime
    full: Open = full_runtime
    piece: Open | None = None
    rule: Rule = RULES[PRECISION]


def layer_proof(
    source: Source,
    artifact: Path | onnx.ModelProto,
    module_map: Mapping[str, ModuleOrigin],
    golden: Golden,
    options: LayerOptions | None = None,
) -> LayerProof:
    """Compare every module with what the artifact has in its place.

    Args:
        source: The module, in eval mode.
        artifact: The ONNX file, or the same in memory.
        module_map: Of its manifest.
        golden: The evidence, of which the inputs are used.
        options: How.

    Raises:
        InvalidInput: The file is no ONNX model, or its inputs are not the evidence's.
        RepositoryError: The library cannot load the model with its inner values exposed.
    """
    return _LayerProver(source, artifact, module_map, golden, options or LayerOptions()).run()


class _LayerProver:
    """One layer proof on its way."""

    def __init__(
        self,
        source: Source,
        artifact: Path | onnx.ModelProto,
        module_map: Mapping[str, ModuleOrigin],
        golden: Golden,
        options: LayerOptions,
    ) -> None:
        self._started = time.monotonic()
        self._options = options
        self._model = read_onnx(artifact) if isinstance(artifact, Path) else artifact
        self._graph = OwnedGraph(self._model, module_map)
        self._models = Models(source)
        self._taken = Taken(golden, options.rows, options.kinds)
        first = next(iter(self._taken.samples()))
        self._counts = self._models.count_calls(first.inputs)
        self._calls = grouped_calls(self._graph, self._counts, self._models.aliases)
        self._values = wanted_values(self._graph, self._calls)
        self._rows = Rows(self._models, self._graph, options.rule)
        self._cut = False

    def run(self) -> LayerProof:
        """Read plainly, then as it is served, then piece by piece; no further than needed."""
        self._read(PLAIN)
        levels = [PLAIN]
        rows = self._named(self._rows.judged(self._taken.extremes))
        if all(row.local.verdict == "passed" for row in rows):
            self._read(FULL)
            levels.append(FULL)
            rows = self._rows.judged(self._taken.extremes)
        outputs = self._outputs()
        proof = LayerProof(
            rows,
            not_compared(
                self._models, rows, self._rows.missing, self._counts, self._calls
            ),
            tuple(levels), outputs, self._taken.run, 0.0, self._models.truth.lowered, self._cut,
        )  # fmt: skip
        if proof.first is None and (failure := first_failure(outputs)):
            proof = self._sought(proof, failure)
        return replace(proof, seconds=round(time.monotonic() - self._started, 3))

    def _named(self, rows: tuple[LayerRow, ...]) -> tuple[LayerRow, ...]:
        """Where several modules are judged in one value, whether it is one that is lost."""
        bad = next((i for i, row in enumerate(rows) if row.local.verdict != "passed"), None)
        if bad is None or not rows[bad].joined or rows[bad].side == "input":
            return rows
        row, again = rows[bad], Rows(self._models, self._graph, self._options.rule)
        sample = next(s for s in self._taken.samples() if s.kind == row.local.kind)
        with opened(with_outputs(self._model, self._values), self._options.plain) as infer:
            values = {**sample.inputs, **infer(sample.inputs)}
        again.add(sample, values, self._compared(sample, values, lost=True), plain=True)
        same = [r for r in again.judged(self._taken.extremes) if r.value == row.value]
        if not all(r.local.verdict == "passed" for r in same):
            return rows
        lost = row.joined[-1]
        named = replace(
            row, module=lost, module_class=self._models.classes[lost], call=0, nodes=(),
            operators=(), joined=(*row.joined[:-1], row.module),
        )  # fmt: skip
        return (*rows[:bad], named, *rows[bad + 1 :])

    def _compared(
        self, sample: Sample, values: Mapping[str, Array], *, accumulated: bool = False,
        lost: bool = False,
    ) -> Compared:  # fmt: skip
        return compared_call(
            self._models, self._graph, self._calls, sample.inputs, values,
            accumulated=accumulated, lost=lost,
        )  # fmt: skip

    def _read(self, level: str) -> None:
        """Run all samples with the inner values exposed at one level."""
        build = self._options.plain if level == PLAIN else self._options.full
        until = self._started + self._options.budget_s
        self._taken.run = 0
        with opened(with_outputs(self._model, self._values), build) as infer:
            for sample in self._taken.samples():
                if sample.further and time.monotonic() > until:
                    self._cut = True
                    return
                values = {**sample.inputs, **infer(sample.inputs)}
                plain = level == PLAIN
                if plain or not self._rows.same_as_plain(sample, values):
                    compared = self._compared(sample, values, accumulated=plain)
                    self._rows.add(sample, values, compared, plain=plain)
                self._taken.run += sample.samples

    def _outputs(self) -> tuple[Judgement, ...]:
        """The artifact as it is served, with nothing exposed."""
        with opened(self._model, self._options.full) as infer:
            for sample in self._taken.samples(self._taken.run):
                self._rows.add_outputs(sample, infer(sample.inputs))
        return tuple(
            judge(pool, name, kind, extreme=self._taken.extremes[kind], rule=self._options.rule)
            for (name, kind), pool in self._rows.outputs.items()
        )

    def _sought(self, proof: LayerProof, failure: str) -> LayerProof:
        """The outputs are wrong and no exposed value is: look for the piece that is."""
        ends = [row for row in proof.rows if row.value in self._graph.outputs]
        if any(row.accumulated and row.accumulated.verdict != "passed" for row in ends):
            return replace(proof, note=(
                f"{failure}; every module is within its local budget, also where nothing is "
                "optimised, so the error builds up on the way"
            ))  # fmt: skip
        if self._options.rule.snr_db is not None:
            # Pieces are compared as float32 is, which no lower precision withstands.
            return replace(proof, note=f"{failure}; every module is within its local budget")
        probe = Probe(
            self._model, self._graph, [row.value for row in proof.rows],
            list(self._taken.samples(self._taken.run)), self._rows.yardsticks(),
        )  # fmt: skip
        build = self._options.piece or self._options.full
        fused = find_fused(probe, build, self._options.plain, self._rows.modules_of)
        if fused is None:
            return replace(proof, note=(
                f"{failure}; no piece of the graph shows it when it is built alone"
            ))  # fmt: skip
        return replace(proof, fused=fused)
