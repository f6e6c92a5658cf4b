"""What is to be said of a version first: its verdict in words, and what speaks against it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from exporter.report.engine import EngineFacts
from exporter.report.here import Here
from runtime.manifest import Manifest

Tone = Literal["passed", "failed", "pending"]


@dataclass(frozen=True)
class Standing:
    """The head of the page.

    Attributes:
        tone: Of its colour.
        word: The verdict.
        sentence: What it means.
        warnings: What one must know all the same.
        notes: Waivers and what this machine found.
    """

    tone: Tone
    word: str
    sentence: str
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def standing_of(
    manifest: Manifest, here: Here, troubles: tuple[str, ...], engine: EngineFacts | None = None
) -> Standing:
    """Judge what the manifest and this machine say; what is wrong with files comes first."""
    tone, word, sentence = _verdict(manifest, troubles)
    warnings = [*troubles[1:]]
    warnings += [warning for proof in manifest.proofs for warning in proof.warnings]
    notes = [
        f"the verdict leans on the waiver {waiver}"
        for proof in manifest.proofs
        for waiver in proof.allowed
    ]
    if engine is not None and engine.source is not None and engine.source.proof is not None:
        proof = engine.source.proof
        notes.append(f"the ONNX file it was built from, {engine.record.onnx}, {proof.verdict} on "
                     f"{proof.provider} ({proof.library})")  # fmt: skip
    replayed = here.replayed
    if replayed is not None and replayed.verdict != "pending":
        ran = f"{replayed.identity.provider} ({replayed.identity.library})"
        if replayed.verdict == "passed":
            notes.append(f"its evidence was run again for this page on {ran}: passed")
        elif tone != "failed":
            warnings.append(f"its evidence was run again for this page on {ran} and failed: "
                            f"{replayed.reason}")  # fmt: skip
    elif not troubles and here.reason:
        notes.append(f"not run for this page: {here.reason}")
    return Standing(tone, word, sentence, tuple(warnings), tuple(notes))


def _verdict(manifest: Manifest, troubles: tuple[str, ...]) -> tuple[Tone, str, str]:
    proof = manifest.proof
    if troubles:
        return "failed", "not proved", troubles[0]
    if proof is None:
        return "pending", "pending", "No proof was made with this version."
    if proof.verdict == "passed":
        return "passed", "passed", (
            "The artifact is the same model as the PyTorch module: on every kind of input its "
            "answers are within the tolerance of the module in float64."
        )  # fmt: skip
    if proof.verdict == "pending":
        return "pending", "pending", proof.reason or "Its proof has not been run yet."
    return "failed", "failed", proof.reason or "The artifact is not shown to be the same model."
