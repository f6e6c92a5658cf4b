"""Calibrate the proof: correct models must pass with room to spare, planted faults must not.

``python benchmarks/tolerance.py`` writes ``benchmarks/results/tolerance.json`` and the
tables in ``docs/tolerance.md``; ``--quick`` runs a part and writes nothing of its own
accord; ``--check`` exits 1 where a criterion does not hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from calibration import FaultRow, Made, ModelRow, fault_row, made, model_row
from faults import FAULTS
from faults import QUICK as QUICK_FAULTS
from report import markdown, write_document
from zoo import QUICK as QUICK_MODELS
from zoo import ZOO

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "tolerance.json"
DOCUMENT = ROOT / "docs" / "tolerance.md"
SEEDS = (0, 1, 2)
LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime", "numpy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the calibration and report it."""
    options = _parsed(arguments)
    _quiet()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        models, faults, device = _calibrated(Path(folder), quick=options.quick)
    problems = [f"{row.model}: {row.problem}" for row in models if row.problem]
    problems += [f"{row.model}, {row.fault}: {row.problem}" for row in faults if row.problem]
    record = {
        "device": device,
        "libraries": {name: version(name) for name in LIBRARIES},
        "seeds": SEEDS[:1] if options.quick else SEEDS,
        "seconds": round(time.monotonic() - started, 1),
        "models": [asdict(row) for row in models],
        "faults": [asdict(row) for row in faults],
        "problems": problems,
    }
    output = options.output or (None if options.quick else RESULTS)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    if not options.quick and output == RESULTS:
        write_document(DOCUMENT, record)
    print(markdown(record))
    return 1 if options.check and problems else 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="five models, six faults, one seed")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    parser.add_argument("--check", action="store_true", help="exit 1 if a criterion fails")
    return parser.parse_args(arguments)


def _calibrated(folder: Path, *, quick: bool) -> tuple[list[ModelRow], list[FaultRow], str]:
    names = QUICK_MODELS if quick else tuple(ZOO)
    planted = [item for item in FAULTS if item.model in names]
    if quick:
        planted = [item for item in planted if item.name in QUICK_FAULTS]
    models: list[ModelRow] = []
    faults: list[FaultRow] = []
    device = ""
    for name in names:
        model: Made = made(ZOO[name], folder, SEEDS[:1] if quick else SEEDS)
        device = model.device
        models.append(model_row(model))
        _say(f"{name}: {models[-1].problem or 'as it should be'}")
        for fault in (item for item in planted if item.model == name):
            faults.append(fault_row(model, fault, folder))
            _say(f"  {fault.name}: {faults[-1].problem or 'as it should be'}")
    return models, faults, device


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _quiet() -> None:
    """The exporters' advice on how to call them is not the user's concern here."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
