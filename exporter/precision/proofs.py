"""The proof of an artifact of a lower precision: on the runtime, or where none here can run it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from exporter.engine.record import NOT_RUN
from exporter.parity import ProofOptions, Proved, prove
from exporter.precision.reference import BACKEND, ReferenceBackend, seconds_of
from exporter.ranges import range_of
from exporter.real import RealData
from exporter.samples import Plan, shared_batch_axis
from exporter.source import Source
from exporter.truth import Truth
from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.errors import InvalidInput, RepositoryError, TwinportError
from runtime.golden import Golden
from runtime.precision import HALVES
from runtime.proof_records import Proof
from runtime.tensors import Array, TensorSpec

_RUNTIME = "onnxruntime"
_ROWS_OF_A_PROOF = 400
"""About as many rows does a proof run without labels."""
_LABEL_SHARE = 0.25
"""Of the proof's budget that the evaluator may spend on labels."""
_LOOKED_AT = 1024
"""Real samples among which those with a clear choice of experts are looked for."""
_TRUTH_ROWS = 64
_IN_FLOAT32 = (
    "ONNX Runtime's CPU provider computes fp16 in float32; the rounding of a GPU is judged where "
    "its evidence is replayed on one"
)


@dataclass(frozen=True)
class Artifact:
    """What is to be proved.

    Attributes:
        file: The ONNX file.
        source: The module that it is made from.
        outputs: Of the graph, in the module's order.
        library: The runtime with its version, as a proof names it.
    """

    file: Path
    source: Source
    outputs: Sequence[TensorSpec]
    library: str


def prove_lower(
    artifact: Artifact, real: RealData | None, options: ProofOptions, full: tuple[Proof, Golden]
) -> tuple[tuple[Proof, ...], Golden]:
    """Prove an artifact on the runtime; else judge it with ``onnx.reference``.

    Args:
        artifact: The artifact.
        real: Real inputs that nothing was measured on.
        options: With the artifact's precision.
        full: Proof and evidence of the version in fp32, for what nothing here can judge.

    Returns:
        Proofs, the one that decides first, and the evidence. Where the runtime has no
        kernels its proof is pending and the evaluator's comes after it; one that fails
        comes first.

    Raises:
        ExportError: The module or the artifact cannot take the inputs described.
    """
    real, chosen = _clear_ones_first(artifact.source, real, options)
    try:
        layouts = options.precision not in HALVES
        backend = open_backend(_RUNTIME, artifact.file, BackendOptions(layouts=layouts))
    except RepositoryError as error:
        proofs, golden = _without_kernels(artifact, real, options, full, str(error))
        return (*proofs[:-1], _warned(proofs[-1], *chosen)), golden
    with closing(backend):
        proved = prove(artifact.source, artifact.outputs, backend, real, options)
    if options.precision == "fp16" and backend.identity.provider == "CPUExecutionProvider":
        chosen = (*chosen, _IN_FLOAT32)
    return (_warned(proved.proof, *chosen),), proved.golden


def _without_kernels(
    artifact: Artifact,
    real: RealData | None,
    options: ProofOptions,
    full: tuple[Proof, Golden],
    why: str,
) -> tuple[tuple[Proof, ...], Golden]:
    try:
        judged = _evaluated(artifact, real, options)
    except TwinportError as error:
        pending = _pending(artifact, full[0], why)
        return (_warned(pending, f"{BACKEND} cannot judge it either: {error}"),), full[1]
    proof = _warned(
        judged.proof, f"judged by {BACKEND} and on no runtime; the verdict is about the graph"
    )
    if proof.verdict == "failed":
        return (proof,), judged.golden
    return (_pending(artifact, judged.proof, why), proof), judged.golden


def _evaluated(artifact: Artifact, real: RealData | None, options: ProofOptions) -> Proved:
    source = artifact.source
    backend = ReferenceBackend(artifact.file, source.inputs, artifact.outputs)
    axis = shared_batch_axis(tuple(source.inputs))
    sample = next(Plan(source, axis, axis is not None, options.seed).random())
    rows = sample.axes[axis] if axis else 1
    seconds = seconds_of(backend, sample.arrays()) / max(rows, 1)
    if axis is not None and seconds * _ROWS_OF_A_PROOF > options.budget_s:
        low, high = range_of(axis, source.ranges)
        source = replace(source, ranges={**source.ranges, axis: (low, min(high, max(low, 2)))})
    labelled = int(_LABEL_SHARE * options.budget_s / max(seconds, 1e-9))
    return prove(source, artifact.outputs, backend, _first(real, max(labelled, 16)), options)


def _first(real: RealData | None, rows: int) -> RealData | None:
    """The first rows; all where there are no more."""
    if real is None or len(real) <= rows:
        return real
    labels = None if real.labels is None else real.labels[:rows]
    inputs = {name: array[:rows] for name, array in real.inputs.items()}
    return replace(real, name=f"{real.name}, first {rows}", inputs=inputs, labels=labels)


def _clear_ones_first(
    source: Source, real: RealData | None, options: ProofOptions
) -> tuple[RealData | None, tuple[str, ...]]:
    """Real samples in an order in which those that route clearly come first.

    The coarser the precision, the fewer samples have no near tie in any layer and token, and
    only those are judged. Which they are the truth alone decides.

    Returns:
        The samples, and what is to be said of their order.
    """
    axis = shared_batch_axis(tuple(source.inputs))
    if real is None or not source.experts or axis is None:
        return real, ()
    count, truth = min(len(real), _LOOKED_AT), Truth(source.module)
    margins: list[Array] = []
    for start in range(0, count, _TRUTH_ROWS):
        part = slice(start, min(start + _TRUTH_ROWS, count))
        truth({name: array[part] for name, array in real.inputs.items()})
        if truth.margin is None:
            return real, ()
        margins.append(truth.margin)
    clear = np.concatenate(margins) > options.rule.routing_margin
    order = np.concatenate([np.flatnonzero(clear), np.flatnonzero(~clear)])
    order = np.concatenate([order, np.arange(count, len(real))])
    labels = None if real.labels is None else real.labels[order]
    inputs = {name: array[order] for name, array in real.inputs.items()}
    said = (
        f"{clear.sum()} of {count} real samples choose their experts clearly enough for "
        f"{options.precision}; these were taken first"
    )
    return replace(real, inputs=inputs, labels=labels), (said,)


def _warned(proof: Proof, *warnings: str) -> Proof:
    return replace(proof, warnings=(*proof.warnings, *warnings))


def _pending(artifact: Artifact, like: Proof, why: str) -> Proof:
    """A proof on the runtime that nothing has run yet."""
    return replace(
        like,
        verdict="pending",
        backend=_RUNTIME,
        provider=NOT_RUN,
        device=NOT_RUN,
        library=artifact.library,
        batch_sizes=(),
        axis_sizes={},
        seconds=0.0,
        cut_by_budget=False,
        judgements=(),
        labels=None,
        routing=None,
        warnings=(),
        reason=(
            f"it was not run here ({why}); its evidence is replayed at the first start that "
            "has kernels for it"
        ),
    )


def check_real(precision: str, real: RealData | None) -> None:
    """Refuse int8 without real inputs.

    Raises:
        InvalidInput: There are none to calibrate on.
    """
    if precision == "int8" and real is None:
        raise InvalidInput(
            "--precision int8 is calibrated on real inputs and there are none; "
            "give some with --samples FILE.npz"
        )
