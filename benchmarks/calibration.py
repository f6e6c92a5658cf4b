"""Measure the proof: each correct model over several seeds, each fault by size and verdict.

A fault's size is measured apart from the proof, on inputs of its own, so that the question
"was a fault of this size found" does not answer itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
from faults import Fault
from zoo import BATCH, Entry, real_digits

from exporter.graph import onnx_from_module, specs_from_values
from exporter.parity import ProofOptions, Proved, prove
from exporter.passes.run import run_passes
from exporter.passes.strip_provenance import strip_provenance
from exporter.samples import Plan, Sample
from exporter.source import Source
from exporter.truth import Truth, torch_float32
from runtime.backends.base import Backend
from runtime.backends.factory import open_backend
from runtime.error_pool import FLOOR
from runtime.errors import TwinportError
from runtime.golden import Golden, replay
from runtime.proof import MAX_LIMIT, RMS_LIMIT, first_failure
from runtime.proof_records import Judgement
from runtime.tensors import Array, TensorSpec

MARGIN = 1.5
"""Correct models stay this far below each limit."""
MUST_BE_FOUND = 20.0
"""Times float32's own error from which a fault must be found."""
_OWN_SEED = 987_654
_OWN_CALLS = 8
_FAULT_BUDGET_S = 1.0


@dataclass(frozen=True)
class Made:
    """An exported model with its proofs."""

    entry: Entry
    source: Source
    artifact: Path
    outputs: tuple[TensorSpec, ...]
    proofs: tuple[Proved, ...]
    replays: tuple[tuple[Judgement, ...], ...]

    @property
    def device(self) -> str:
        """What ran the artifact."""
        return self.proofs[0].proof.device


@dataclass(frozen=True)
class ModelRow:
    """A correct model: the worst of all seeds, outputs and kinds of input."""

    model: str
    parameters: int
    state_sha256: str
    rms_factor: float | None
    max_factor: float | None
    extreme_rms: float | None
    """The largest relative RMS on a kind of extreme inputs."""
    extreme_limit: float | None
    extreme_share: float
    """Of its limit that the error on any extreme kind takes up, at most."""
    replay_rms_factor: float | None
    replay_max_factor: float | None
    verdict: str
    replay: str
    batchable: bool
    seconds: float
    problem: str


@dataclass(frozen=True)
class FaultRow:
    """A planted fault."""

    model: str
    fault: str
    size: float | None
    """RMS of what the fault changes, in units of PyTorch's float32 error; null: NaN."""
    measured_on: str
    rms_factor: float | None
    """As the proof measured it on ordinary inputs, the worst kind."""
    found: bool
    replay_found: bool
    reason: str
    blind: str
    problem: str


def made(entry: Entry, folder: Path, seeds: Sequence[int]) -> Made:
    """Export a model and prove it with each seed, as ``twinport export`` does."""
    source = entry.source()
    model = run_passes(onnx_from_module(source), [strip_provenance])
    artifact = folder / f"{len(list(folder.iterdir()))}.onnx"
    artifact.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    outputs = specs_from_values(model.graph.outputs)
    backend = open_backend("onnxruntime", artifact)
    real = real_digits(entry.name)
    proofs = tuple(prove(source, outputs, backend, real, ProofOptions(seed=seed)) for seed in seeds)
    replays = tuple(replay(item.golden, backend.infer) for item in proofs)
    return Made(entry, source, artifact, outputs, proofs, replays)


def model_row(model: Made) -> ModelRow:
    """Summarise a correct model and name the first criterion that it misses."""
    judgements = [item for proved in model.proofs for item in proved.proof.judgements]
    replayed = [item for items in model.replays for item in items]
    extremes = [item for item in judgements if item.extreme]
    extreme = max(extremes, key=lambda item: item.relative_rms or 0.0, default=None)
    failed = [proved.proof.reason for proved in model.proofs if proved.proof.reason]
    row = ModelRow(
        model.entry.name, model.source.parameters, model.source.state_sha256(),
        _worst(judgements, "rms_factor"), _worst(judgements, "max_factor"),
        extreme and extreme.relative_rms, extreme and extreme.relative_limit,
        max(map(_share_of_limit, extremes), default=0.0),
        _worst(replayed, "rms_factor"), _worst(replayed, "max_factor"),
        _verdict(failed), "failed" if any(map(first_failure, model.replays)) else "passed",
        all(proved.proof.batchable for proved in model.proofs),
        round(sum(proved.proof.seconds for proved in model.proofs), 1), "",
    )  # fmt: skip
    return replace(row, problem=_model_problem(model, row, failed))


def _verdict(reasons: Sequence[str]) -> str:
    if not reasons:
        return "passed"
    return "vacuous" if all(" is vacuous" in reason for reason in reasons) else "failed"


def _model_problem(model: Made, row: ModelRow, reasons: Sequence[str]) -> str:
    wanted = "vacuous" if model.entry.vacuous else "passed"
    if row.verdict != wanted:
        return f"the verdict is {row.verdict}, wanted {wanted}: {(*reasons, '')[0]}"
    if row.batchable is not model.entry.batchable:
        return f"batchable is {row.batchable}: {model.proofs[0].proof.batchable_reason}"
    if row.replay != "passed":
        return f"the replay failed: {next(filter(None, map(first_failure, model.replays)))}"
    for name, factor, limit in (
        ("RMS", row.rms_factor, RMS_LIMIT), ("largest error", row.max_factor, MAX_LIMIT),
    ):  # fmt: skip
        if factor is not None and not factor <= limit / MARGIN:
            return f"the {name} factor {factor:.3g} is within {MARGIN} of its limit {limit:g}"
    if not row.extreme_share <= 1 / MARGIN:
        return f"the error on extreme inputs takes {row.extreme_share:.0%} of its limit"
    return ""


def _share_of_limit(item: Judgement) -> float:
    """How much of its limit an extreme kind's error takes up."""
    if item.relative_rms is None or not item.relative_limit:
        # A truth of zeros is judged in absolute terms; its verdict, which is asked first, says all.
        return 0.0
    return item.relative_rms / item.relative_limit


def fault_row(model: Made, fault: Fault, folder: Path) -> FaultRow:
    """Plant a fault, measure its size, and see whether proof and replay find it."""
    path = folder / "faulty.onnx"
    graph = ir.load(model.artifact)
    fault.plant(graph)
    path.write_bytes(ir.to_proto(graph).SerializeToString(deterministic=True))
    faulty = open_backend("onnxruntime", path)
    size = fault_size(model, faulty, fault)
    judgements, reason = _proved(model, faulty)
    replay_reason = _replayed(model.proofs[0].golden, faulty)
    found = bool(reason)
    row = FaultRow(
        model.entry.name, fault.name, size if np.isfinite(size) else None, fault.where,
        _worst(judgements, "rms_factor"), found, bool(replay_reason),
        reason, fault.blind, "",
    )  # fmt: skip
    return replace(row, problem=_fault_problem(row, size))


def _fault_problem(row: FaultRow, size: float) -> str:
    if row.blind:
        # Found all the same is no fault of the instrument, but of what the table says.
        return "found, though listed as invisible" if row.found else ""
    if not size < MUST_BE_FOUND and not row.found:
        return f"not found, though {size:.3g} times float32's own error"
    if not size < MUST_BE_FOUND and not row.replay_found:
        return f"not found by the replay, though {size:.3g} times float32's own error"
    return ""


def _proved(model: Made, faulty: Backend) -> tuple[tuple[Judgement, ...], str]:
    options = ProofOptions(budget_s=_FAULT_BUDGET_S)
    real = real_digits(model.entry.name)
    try:
        proof = prove(model.source, model.outputs, faulty, real, options).proof
    except TwinportError as error:
        return (), str(error)
    return proof.judgements, proof.reason


def _replayed(golden: Golden, faulty: Backend) -> str:
    try:
        return first_failure(replay(golden, faulty.infer))
    except TwinportError as error:
        return str(error)


def fault_size(model: Made, faulty: Backend, fault: Fault) -> float:
    """RMS of what the fault changes, in units of PyTorch's float32 error, worst output.

    Measured on other inputs than the proof's, of the kind that the fault concerns; the
    unit has the proof's floor. NaN is infinitely large.
    """
    right = open_backend("onnxruntime", model.artifact)
    truth, torch32 = Truth(model.source.module), torch_float32(model.source.module)
    pooled: dict[str, list[tuple[Array, Array, Array, Array]]] = {}
    for sample in _own_samples(model.source, fault):
        inputs = sample.arrays()
        names = [spec.name for spec in model.outputs]
        true, narrow = (list(run(inputs).values()) for run in (truth, torch32))
        good, bad = right.infer(inputs), faulty.infer(inputs)
        for name, exact, single in zip(names, true, narrow, strict=True):
            pooled.setdefault(name, []).append((bad[name], good[name], exact, single))
    return max(_size(parts) for parts in pooled.values())


def _size(parts: Sequence[tuple[Array, Array, Array, Array]]) -> float:
    bad, good, exact, single = (
        np.concatenate([part[i].ravel().astype(np.float64) for part in parts]) for i in range(4)
    )
    unit = max(_rms(single - exact), FLOOR * _rms(exact))
    size = _rms(bad - good) / unit
    return size if np.isfinite(size) else float("inf")


def _rms(values: Array) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _own_samples(source: Source, fault: Fault) -> Sequence[Sample]:
    """Some calls of the kind that the fault concerns."""
    batch = 7 if fault.where == "batch of 7" else 16
    kinds: Mapping[str, str] = {"zeros": "zeros", "large": "large"}
    kind = kinds.get(fault.where, "random")
    fixed = replace(source, ranges={**source.ranges, BATCH: (batch, batch)})
    samples: list[Sample] = []
    for turn in range(_OWN_CALLS):
        plan = Plan(fixed, BATCH, True, _OWN_SEED + turn)
        offered = plan.random() if kind == "random" else plan.extremes()
        samples.append(next(item for item in offered if item.kind == kind))
    return samples


def _worst(judgements: Sequence[Judgement], name: str) -> float | None:
    """The largest factor over the ordinary kinds; infinite and missing ones left out."""
    values = [getattr(item, name) for item in judgements if not item.extreme]
    return max((value for value in values if value is not None), default=None)
