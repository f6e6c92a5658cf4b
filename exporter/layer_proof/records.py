"""What a layer proof says."""

from __future__ import annotations

from dataclasses import dataclass

from exporter.layer_proof.visits import Side
from runtime.proof_records import Judgement


@dataclass(frozen=True)
class LayerRow:
    """One inner value, judged.

    Attributes:
        module: The module that is answerable for it; empty for the root.
        call: 0 for the module's first call.
        value: Its name in the graph.
        side: ``output`` of the module, or ``input`` of one where it is what lies before.
        receiver: The module whose input it is; none for an output.
        nodes: Names of the nodes between it and the values compared before.
        operators: Of these nodes.
        joined: Modules before it whose own values are not in the graph, so that they are
            judged here.
        local: The module run again in float64 on the artifact's own values; the artifact read
            with no optimisation.
        accumulated: The same value against the truth of the whole run.
        local_full: As ``local``, read at full optimisation; none where it was not needed.
    """

    module: str
    module_class: str
    call: int
    value: str
    side: Side
    receiver: str | None
    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    joined: tuple[str, ...]
    local: Judgement
    accumulated: Judgement | None = None
    local_full: Judgement | None = None

    def __str__(self) -> str:
        """``fc2 (Linear)``, and where the value lies if that is not the module's output."""
        name = self.module or "the root"
        again = f", call {self.call + 1}" if self.call else ""
        shown = f"{name} ({self.module_class.rpartition('.')[2]}{again})"
        return f"{shown} before {self.receiver or 'the root'}" if self.side == "input" else shown


@dataclass(frozen=True)
class NotCompared:
    """A module without a row of its own, and why."""

    module: str
    module_class: str
    reason: str


@dataclass(frozen=True)
class Fused:
    """The smallest piece of the graph that is wrong when it is built as a whole.

    Attributes:
        start: Values that it begins with; inputs of the graph or inner ones.
        end: The value that is wrong.
        modules: In the piece.
        rms_factor: Of the piece's end against the same piece built without optimisation.
        built: Pieces that were built to find it.
    """

    start: tuple[str, ...]
    end: str
    modules: tuple[str, ...]
    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    rms_factor: float | None
    reason: str
    built: int


@dataclass(frozen=True)
class LayerProof:
    """All modules of a model against the module run again on the artifact's values.

    Attributes:
        rows: In graph order.
        levels: At which levels of optimisation inner values were read.
        outputs: The artifact as it is served, no inner value exposed, against the truth.
        fused: What bisection found, where no exposed value is wrong and the outputs are.
        note: What is to be said where something is wrong and no module is named.
    """

    rows: tuple[LayerRow, ...]
    not_compared: tuple[NotCompared, ...]
    levels: tuple[str, ...]
    outputs: tuple[Judgement, ...]
    samples: int
    seconds: float
    lowered: tuple[str, ...] = ()
    cut_by_budget: bool = False
    fused: Fused | None = None
    note: str = ""

    @property
    def first(self) -> LayerRow | None:
        """The first module over its local budget, in graph order."""
        over = (row for row in self.rows if row.local.verdict != "passed")
        full = (row for row in self.rows if row.local_full and row.local_full.verdict != "passed")
        return next(over, None) or next(full, None)

    @property
    def passed(self) -> bool:
        """Whether nothing is over its budget."""
        return self.first is None and self.fused is None and not self.note


def divergence_text(proof: LayerProof) -> str:
    """One line that names the module at fault; empty where nothing is wrong."""
    if row := proof.first:
        judged = row.local if row.local.verdict != "passed" else row.local_full
        level = "no" if judged is row.local else "full"
        return (
            f"the first module over its local budget is {row}, value '{row.value}'"
            f"{_nodes(row.nodes, row.operators)}: {judged.reason if judged else ''}"
            f" (read with {level} optimisation)"
        )
    if fused := proof.fused:
        return (
            f"only the fused graph is wrong, first in {', '.join(fused.modules) or 'the root'}"
            f"{_nodes(fused.nodes, fused.operators)}, built as one from "
            f"{', '.join(fused.start)} to '{fused.end}': {fused.reason}"
        )
    return proof.note


def _nodes(names: tuple[str, ...], operators: tuple[str, ...]) -> str:
    if not names:
        return ", which no node of the graph computes"
    shown = [f"{name} ({kind})" for name, kind in zip(names[:3], operators[:3], strict=True)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f", {'node' if len(names) == 1 else 'nodes'} {', '.join(shown)}{more}"
