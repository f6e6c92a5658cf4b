"""A failing proof says where: the module at fault, written into the proof that failed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from exporter.layer_proof.inner import full_runtime
from exporter.layer_proof.prove import LayerOptions, layer_proof
from exporter.layer_proof.records import LayerProof, divergence_text
from exporter.parity import Proved
from exporter.source import Source
from runtime.errors import TwinportError
from runtime.manifest import ModuleOrigin
from runtime.precision import FULL, HALVES, KINDS, RULES, Rule
from runtime.proof_records import Divergence, Judgement

BUDGET_S = 10.0


def located(
    source: Source,
    artifact: Path,
    module_map: Mapping[str, ModuleOrigin],
    proved: Proved,
    notify: Callable[[str], None] = lambda _: None,
    rule: Rule = RULES[FULL],
) -> Proved:
    """What was proved, with where the artifact diverges if an output of it is wrong.

    A proof that passed, or failed for another reason, comes back as it is. So does one whose
    fault no module shows, with a warning that says so.

    Args:
        source: The module.
        artifact: The file that was proved.
        module_map: Of its manifest.
        proved: The proof and its evidence.
        notify: Called with a line before the search begins.
        rule: That of the artifact's precision.
    """
    proof = proved.proof
    wrong = next((item for item in proof.judgements if item.verdict == "failed"), None)
    if proof.verdict != "failed" or wrong is None:
        return proved
    notify("the proof failed; looking for the module at fault")
    try:
        found = layer_proof(source, artifact, module_map, proved.golden, _options(wrong, rule))
    except TwinportError as error:
        return _warned(proved, f"where it diverges could not be found: {error}")
    text = divergence_text(found)
    if not text:
        return _warned(proved, "no module is over its local budget on the inputs of the evidence")
    reason = f"{proof.reason}; {text}"
    return replace(
        proved, proof=replace(proof, reason=reason, diverges=divergence_from(found))
    )  # fmt: skip


def divergence_from(proof: LayerProof) -> Divergence | None:
    """What is kept of a layer proof that found something."""
    text = divergence_text(proof)
    if row := proof.first:
        plain = row.local.verdict != "passed"
        judged = row.local if plain or row.local_full is None else row.local_full
        return Divergence(
            (row.module,), row.value, row.nodes, "plain" if plain else "full",
            judged.rms_factor, text,
        )  # fmt: skip
    if fused := proof.fused:
        return Divergence(
            tuple(module.partition(" (")[0] for module in fused.modules), fused.end,
            fused.nodes, "fused", fused.rms_factor, text,
        )  # fmt: skip
    return None


def _options(wrong: Judgement, rule: Rule) -> LayerOptions:
    kinds = (wrong.kind,) if wrong.extreme else tuple(sorted(KINDS & rule.judged))
    full = partial(full_runtime, layouts=rule.precision not in HALVES)
    return LayerOptions(budget_s=BUDGET_S, kinds=kinds, full=full, rule=rule)


def _warned(proved: Proved, warning: str) -> Proved:
    proof = proved.proof
    return replace(proved, proof=replace(proof, warnings=(*proof.warnings, warning)))
