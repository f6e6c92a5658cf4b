"""What a proof found, as ``manifest.json`` and reports carry it.

Standard library only; the numbers come from ``runtime/proof.py`` and whoever runs the artifact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["passed", "failed", "pending"]


@dataclass(frozen=True)
class Judgement:
    """One output over all pooled samples of one kind, judged (``runtime/proof.py``)."""

    output: str
    kind: str
    extreme: bool
    samples: int
    elements: int
    rms_error: float | None
    """RMS(artifact - truth); for integers the share of elements that differ."""
    rms_scale: float | None
    """max(RMS(torch float32 - truth), floor)."""
    rms_factor: float | None
    rms_limit: float | None
    max_error: float | None
    max_scale: float | None
    max_factor: float | None
    max_limit: float | None
    relative_rms: float | None
    verdict: Literal["passed", "failed", "vacuous"]
    reason: str = ""
    relative_limit: float | None = None
    """On extreme inputs; wider than usual where the truth itself is ill-conditioned."""
    unstable: int = 0
    """Samples left out because their choice of experts is a near tie."""
    snr_db: float | None = None
    """Of a precision below fp32: the truth's power over the error's; none where there is no
    error at all."""
    snr_limit_db: float | None = None
    """At least; none where the ratio is shown and not judged."""


@dataclass(frozen=True)
class LabelCheck:
    """Predicted classes over a labelled data set."""

    dataset: str
    samples: int
    agreeing: int
    """Samples on which the artifact and the truth name the same class."""
    excused: int
    """Disagreements where the truth's logits of the two classes are within the tolerance."""
    artifact_accuracy: float
    torch_accuracy: float
    verdict: Literal["passed", "failed"]
    fewest: int | None = None
    """Of a precision below fp32: how many must agree, near ties included."""

    @property
    def wrong(self) -> int:
        """Disagreements that nothing excuses."""
        return self.samples - self.agreeing - (self.excused if self.fewest is None else 0)


@dataclass(frozen=True)
class RoutingCheck:
    """How the proof's ordinary samples were routed through the layers of experts."""

    layers: tuple[str, ...]
    """Paths in the module tree, in the order of ``expert_load``."""
    experts: int
    samples: int
    unstable: int
    """Samples with a near tie somewhere, which are judged by less."""
    reached: int
    """Pairs of layer and expert that some stable sample sent tokens to."""
    unreached: tuple[tuple[str, int], ...]
    """Layers and experts that no sample reached."""
    search_steps: int
    """Steps of the search for inputs that reach the rest."""


@dataclass(frozen=True)
class Divergence:
    """Where an artifact stops being its module (``exporter/layer_proof``)."""

    modules: tuple[str, ...]
    """The first module over its local budget; several where only their fusion is wrong."""
    value: str
    """The ONNX value that is wrong."""
    nodes: tuple[str, ...]
    """The ONNX nodes that make it out of values that are right."""
    level: Literal["plain", "full", "fused"]
    """Whether inner values were read without optimisation, with all of it, or not at all."""
    rms_factor: float | None
    text: str
    """The same in one line."""


@dataclass(frozen=True)
class Proof:
    """What was found when the artifact was compared with the module in float64."""

    verdict: Verdict
    backend: str
    provider: str
    device: str
    library: str
    """Name and version of what ran the artifact (``onnxruntime 1.31.1``)."""
    truth: Literal["float64", "degraded"]
    truth_operators: tuple[str, ...]
    """The operators that fell below float64, where the truth is degraded."""
    batchable: bool
    batchable_reason: str
    batch_sizes: tuple[int, ...]
    axis_sizes: dict[str, tuple[int, ...]]
    seed: int
    seconds: float
    cut_by_budget: bool
    judgements: tuple[Judgement, ...]
    labels: LabelCheck | None = None
    routing: RoutingCheck | None = None
    warnings: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    """Waivers that the verdict leans on (``--allow-constant logits``)."""
    reason: str = ""
    diverges: Divergence | None = None
    """Where, if the proof failed and a module shows it."""
