"""Calibrate the rules of lower precisions: sound conversions pass, planted faults are found.

A fault's size is what it changes of the sound artifact's answers, as a signal-to-noise ratio
on inputs that the proof does not use: below the rule's limit by ``MARGIN_DB`` it must be found.

``python benchmarks/tolerance_lower.py`` writes ``benchmarks/results/tolerance_lower.json`` and
the tables in ``docs/tolerance.md``; ``--quick`` takes one model and writes nothing of its own
accord; ``--check`` exits 1 where a criterion does not hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from lower_faults import FAULTS, LowerFault
from marks import put_between
from zoo import BATCH, ZOO

from exporter.artifact import serialized_graph
from exporter.graph import onnx_from_module, specs_from_values
from exporter.parity import ProofOptions, Proved, prove
from exporter.passes.run import run_passes
from exporter.passes.strip_provenance import strip_provenance
from exporter.precision.kinds import FLOATS
from exporter.precision.lowered import Lowered, lower_graph
from exporter.precision.reference import ReferenceBackend
from exporter.precision.samples import Calibration, calibration_inputs
from exporter.precision.typed import typed
from exporter.real import RealData
from exporter.samples import Plan
from exporter.source import Source
from models.data import digits, prepare
from runtime.backends.base import Backend, BackendOptions
from runtime.backends.factory import open_backend
from runtime.errors import TwinportError
from runtime.golden import replay
from runtime.precision import HALVES, rule_of
from runtime.proof import first_failure, signal_to_noise_db
from runtime.proof_records import Judgement
from runtime.tensors import Array, TensorSpec

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "tolerance_lower.json"
DOCUMENT = ROOT / "docs" / "tolerance.md"
MARK = "lower"
MARGIN_DB = 3.0
"""Above a rule's limit that sound conversions stay, below it that faults must be found."""
MODELS = (
    "lenet5", "residual CNN, BatchNorm", "ResNet-18", "vision transformer",
    "LSTM, both directions", "transformer encoder", "GELU MLP", "deep MLP, 50 layers",
    "dict of outputs",
)  # fmt: skip
QUICK = ("GELU MLP",)
PRECISIONS = ("fp16", "bf16", "int8")
TOO_SLOW = {("ResNet-18", "bf16"), ("vision transformer", "bf16")}
"""For ``onnx.reference``."""
LIBRARIES = ("torch", "onnx", "onnxruntime", "numpy")
_CALLS_OF_64, _OWN_SEED, _BUDGET_S = 8, 424_242, 1.0

Backends = Sequence[Backend]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """A sound conversion, loaded and proved."""

    source: Source
    precision: str
    outputs: tuple[TensorSpec, ...]
    lowered: Lowered
    calibration: Calibration
    backend: Backend
    proved: Proved


@dataclass(frozen=True)
class ModelRow:
    """A sound conversion: the worst of all outputs and kinds that are judged."""

    model: str
    precision: str
    operators: int
    kept: int
    rounded_db: float
    proof_db: float | None
    replay_db: float | None
    limit_db: float
    verdict: str
    replay: str
    problem: str


@dataclass(frozen=True)
class FaultRow:
    """A planted fault."""

    model: str
    precision: str
    fault: str
    size_db: float | None
    proof_db: float | None
    limit_db: float
    found: bool
    replay_found: bool
    problem: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the calibration and report it."""
    options = _parsed(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        models, faults = _calibrated(Path(folder), QUICK if options.quick else MODELS)
    rows = (*models, *faults)
    record = {
        "libraries": {name: version(name) for name in LIBRARIES},
        "models": [asdict(row) for row in models],
        "faults": [asdict(row) for row in faults],
        "problems": [
            f"{row.model} in {row.precision}: {row.problem}" for row in rows if row.problem
        ],
    }
    output = options.output or (None if options.quick else RESULTS)
    if output is not None:
        output.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if output == RESULTS:
        text = put_between(DOCUMENT.read_text("utf-8"), MARK, markdown(record))
        DOCUMENT.write_text(text, encoding="utf-8")
    print(markdown(record))
    return 1 if options.check and record["problems"] else 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one model")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--check", action="store_true", help="exit 1 if a criterion fails")
    return parser.parse_args(arguments)


def _calibrated(folder: Path, names: Sequence[str]) -> tuple[list[ModelRow], list[FaultRow]]:
    models: list[ModelRow] = []
    faults: list[FaultRow] = []
    for name in names:
        for precision in PRECISIONS:
            if (name, precision) in TOO_SLOW:
                continue
            made = converted(name, precision, folder / "model.onnx")
            with closing(made.backend):
                models.append(model_row(name, made))
                print(f"{name} in {precision}: {models[-1].problem or 'as it should be'}",
                      file=sys.stderr, flush=True)  # fmt: skip
                planted = (f for f in FAULTS if (f.model, f.precision) == (name, precision))
                faults += [fault_row(made, fault, folder / "faulty.onnx") for fault in planted]
    return models, faults


def converted(name: str, precision: str, file: Path) -> Made:
    """Lower a model of the zoo as ``twinport export --precision`` does, and prove it."""
    source = ZOO[name].source()
    opset = max(20, FLOATS[precision].opset if precision in FLOATS else 0)
    model = typed(run_passes(onnx_from_module(source, opset), [strip_provenance]))
    calibration = calibration_inputs(source, None, _real(name, source), True)
    lowered = lower_graph(model, precision, calibration, [])
    outputs = specs_from_values(model.graph.outputs)
    backend = _opened(lowered.model, file, source, outputs, precision)
    return Made(source, precision, outputs, lowered, calibration, backend,
                _proved(source, outputs, backend, calibration, precision))  # fmt: skip


def _real(name: str, source: Source) -> RealData:
    """Digits for the model of digits; drawn rows stand for real ones of the others."""
    if name == "lenet5":
        return RealData("digits", {"image": prepare(digits().images[:512]).numpy()})
    fixed = replace(source, ranges={**source.ranges, BATCH: (64, 64)})
    calls = [
        next(Plan(fixed, BATCH, True, _OWN_SEED + turn).random()).arrays()
        for turn in range(_CALLS_OF_64)
    ]
    return RealData("drawn", {key: np.concatenate([c[key] for c in calls]) for key in calls[0]})


def _opened(
    model: ir.Model, file: Path, source: Source, outputs: tuple[TensorSpec, ...], precision: str
) -> Backend:
    serialized_graph(model, file.name).write(file)
    if precision == "bf16":
        return ReferenceBackend(file, source.inputs, outputs)
    return open_backend("onnxruntime", file, BackendOptions(layouts=precision not in HALVES))


def _proved(
    source: Source,
    outputs: tuple[TensorSpec, ...],
    backend: Backend,
    calibration: Calibration,
    precision: str,
) -> Proved:
    options = ProofOptions(budget_s=_BUDGET_S, precision=precision)
    return prove(source, outputs, backend, calibration.rest, options)


def model_row(name: str, made: Made) -> ModelRow:
    """Summarise a sound conversion and name the first criterion that it misses."""
    rule = rule_of(made.precision)
    assert rule.snr_db is not None
    replayed = replay(made.proved.golden, made.backend.infer, precision=made.precision)
    row = ModelRow(
        name, made.precision, made.lowered.operators, len(made.lowered.kept),
        round(made.lowered.ratio_db, 1), _worst(made.proved.proof.judgements), _worst(replayed),
        rule.snr_db, made.proved.proof.verdict, "failed" if first_failure(replayed) else "passed",
        "",
    )  # fmt: skip
    if row.verdict != "passed" or row.replay != "passed":
        return replace(row, problem=made.proved.proof.reason or first_failure(replayed))
    if row.proof_db is not None and row.proof_db < rule.snr_db + MARGIN_DB:
        return replace(row, problem=f"{row.proof_db} dB is within {MARGIN_DB:g} dB of the limit")
    return row


def fault_row(made: Made, fault: LowerFault, file: Path) -> FaultRow:
    """Plant a fault, measure its size, and see whether proof and replay find it."""
    graph = made.lowered.model.clone()
    fault.plant(graph)
    faulty = _opened(graph, file, made.source, made.outputs, made.precision)
    with closing(faulty):
        size = _size_db(made, faulty)
        judgements, reason = _judged(made, faulty)
        try:
            replayed = first_failure(
                replay(made.proved.golden, faulty.infer, precision=made.precision)
            )
        except TwinportError as error:
            replayed = str(error)
    limit = rule_of(made.precision).snr_db
    assert limit is not None
    row = FaultRow(
        fault.model, fault.precision, fault.name, round(size, 1) if np.isfinite(size) else None,
        _worst(judgements), limit, bool(reason), bool(replayed), "",
    )  # fmt: skip
    if not size > limit - MARGIN_DB and not (row.found and row.replay_found):
        where = "the proof" if not row.found else "the replay"
        return replace(row, problem=f"{fault.name} was not found by {where}")
    return row


def _judged(made: Made, faulty: Backend) -> tuple[tuple[Judgement, ...], str]:
    try:
        proved = _proved(made.source, made.outputs, faulty, made.calibration, made.precision)
    except TwinportError as error:
        return (), str(error)
    return proved.proof.judgements, proved.proof.reason


def _size_db(made: Made, faulty: Backend) -> float:
    """What the fault changes of the answers, the worst output, on samples of the real kind."""
    rest = made.calibration.rest
    assert rest is not None
    rows = {name: array[-64:] for name, array in rest.inputs.items()}
    right, wrong = (backend.infer(rows) for backend in (made.backend, faulty))
    ratios = [
        _ratio(right[name].astype(np.float64), wrong[name].astype(np.float64))
        for name in right
        if right[name].dtype.kind == "f"
    ]
    return min(ratios)


def _ratio(right: Array, wrong: Array) -> float:
    rms = [float(np.sqrt(np.square(item).mean())) for item in (right, wrong - right)]
    return signal_to_noise_db(*rms)


def _worst(judgements: Sequence[Judgement]) -> float | None:
    """The least ratio of what is judged; none where nothing has noise."""
    ratios = [item.snr_db for item in judgements
              if item.snr_limit_db is not None and item.snr_db is not None]  # fmt: skip
    return round(min(ratios), 1) if ratios else None


def markdown(record: Mapping[str, Any]) -> str:
    """Both tables, with what they were measured with."""
    libraries = ", ".join(f"{name} {number}" for name, number in record["libraries"].items())
    return "\n\n".join((
        f"Measured with {libraries}; bf16 with onnx.reference.",
        "### Sound conversions to a lower precision",
        _table(
            ("model", "precision", "operators", "modules kept", "every value rounded",
             "proof, worst", "replay, worst", "at least", "proof", "replay"),
            [
                (row["model"], row["precision"], str(row["operators"]), str(row["kept"]),
                 _db(row["rounded_db"]), _db(row["proof_db"]), _db(row["replay_db"]),
                 _db(row["limit_db"]), row["verdict"], row["replay"])
                for row in record["models"]
            ],
            "llrrrrrrll",
        ),
        "### Faults planted in lower precisions",
        _table(
            ("model", "precision", "fault", "size", "proof, worst", "at least", "proof", "replay"),
            [
                (row["model"], row["precision"], row["fault"], _db(row["size_db"]),
                 _db(row["proof_db"]), _db(row["limit_db"]),
                 *("found" if row[key] else "not found" for key in ("found", "replay_found")))
                for row in record["faults"]
            ],
            "lllrrrll",
        ),
        "Criteria that do not hold: " + ("; ".join(record["problems"]) or "none") + ".",
    ))  # fmt: skip


def _db(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    rule = [{"l": ":--", "r": "--:"}[side] for side in align]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


if __name__ == "__main__":
    sys.exit(main())
