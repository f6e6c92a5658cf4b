"""Both models on every backend, in process and served, beside PyTorch in float64.

    python benchmarks/parity_matrix.py [--rows N]

Exports both models, builds the engines whose library is here, runs every image of MNIST's
test set (the bundled digits without MNIST) and prints the matrix. What cannot run on this
machine is listed with the reason. Exits 1 where a cell that ran is outside of its limits.
Writes ``benchmarks/results/parity.json`` and the table in ``docs/engines.md`` where no
``--rows`` cuts the data.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from marks import put_between
from rich.box import SIMPLE_HEAD
from rich.table import Table

from exporter.demo import first_rows, serving
from exporter.engine.pipeline import EngineRequest, build_engine
from exporter.engine.progress import BuildView
from exporter.matrix import Cell, Yardstick, matrix, measure_yardstick
from exporter.pipeline import ExportRequest, export_model
from exporter.real import digit_data
from exporter.source import SourceRequest, load_source
from runtime.backends.plan import FLAVOURS
from runtime.errors import TwinportError
from runtime.proof import MAX_LIMIT, RMS_LIMIT
from runtime.tables import console

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "parity.json"
DOCUMENT = ROOT / "docs" / "engines.md"
MODELS = {"lenet5": "auto", "moe": "static"}
"""With the form of the expert layers; the static one is what TensorRT takes."""
LIBRARIES = (
    "torch", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "grpcio",
)  # fmt: skip
READY = "models ready"


def main() -> int:
    """Prepare, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="images; all where none are given")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        repository = Path(folder)

        @cache
        def serve(device: str) -> str:
            return stack.enter_context(serving(repository, "--device", device, until=READY))

        absent = prepare(repository)
        cells = list(matrix(repository, yardsticks(rows), serve, absent))
    out = console()
    out.print(table(cells))
    for line in reasons(cells):
        out.print(line, markup=False, soft_wrap=True)
    if rows is None:
        record = record_of(cells)
        RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_table(text, record), encoding="utf-8")
    return 1 if any(cell.verdict == "failed" for cell in cells) else 0


def prepare(repository: Path) -> dict[str, str]:
    """Export both models and build their engines; why an engine is not there, by its name."""
    absent = {}
    for name, form in MODELS.items():
        export_model(ExportRequest(SourceRequest(name), repository, moe_form=form))
        for flavour in FLAVOURS.values():
            request = EngineRequest(repository / name, flavour=flavour.name)
            try:
                build_engine(request, BuildView())
            except TwinportError as error:
                absent[f"{name}{flavour.suffix}"] = str(error)
    return absent


def yardsticks(rows: int | None) -> list[Yardstick]:
    """The truth of both models over the same images."""
    made = []
    for name in MODELS:
        source = load_source(SourceRequest(name))
        data = digit_data(source)
        made.append(measure_yardstick(source, data if rows is None else first_rows(data, rows)))
    return made


def record_of(cells: Sequence[Cell]) -> dict[str, Any]:
    """What is written, with what it ran on."""
    ran = [cell.labels for cell in cells if cell.labels is not None]
    return {
        "dataset": ran[0].dataset,
        "samples": ran[0].samples,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "versions": dict(versions()),
        "cells": [asdict(cell) for cell in cells],
    }


def versions() -> Iterator[tuple[str, str]]:
    """Libraries that are here, with their versions."""
    for library in LIBRARIES:
        try:
            yield library, version(library)
        except PackageNotFoundError:
            continue


def table(cells: Sequence[Cell]) -> Table:
    """A row for each cell; errors in units of PyTorch's own."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("backend", "model", "precision", "route"):
        shown.add_column(heading, no_wrap=True)
    limits = f"RMS (max {RMS_LIMIT:g})", f"largest (max {MAX_LIMIT:g})"
    for heading in (*limits, "relative", "experts", "labels", "accuracy"):
        shown.add_column(heading, justify="right", no_wrap=heading == "labels")
    shown.add_column("verdict", no_wrap=True)
    for cell in cells:
        shown.add_row(cell.backend, cell.model, cell.precision, cell.route, *_numbers(cell))
    return shown


def _numbers(cell: Cell) -> tuple[str, ...]:
    if cell.labels is None:
        return (*["-"] * 6, cell.verdict)
    logits, *loads = cell.judgements
    factors = (_number(value) for value in (logits.rms_factor, logits.max_factor))
    experts = [f"{load.rms_error:.2%} differ" if load.rms_error else "equal" for load in loads]
    return (
        *factors, f"{logits.relative_rms:.1e}", *(experts or ["-"]),
        f"{cell.labels.agreeing}/{cell.labels.samples}",
        f"{cell.labels.artifact_accuracy:.2%}", cell.verdict,
    )  # fmt: skip


def reasons(cells: Sequence[Cell]) -> list[str]:
    """Why cells failed or did not run, those with the same reason together."""
    places: dict[tuple[str, str, str], dict[str, None]] = {}
    for cell in cells:
        if cell.reason:
            where = places.setdefault((cell.verdict, cell.backend, cell.reason), {})
            where[f"{cell.model} {cell.route}"] = None
    return [
        f"{verdict}: {backend} ({', '.join(where)}): {reason}"
        for (verdict, backend, reason), where in places.items()
    ]


def _number(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.2f}"


def table_from_record(record: Mapping[str, Any]) -> str:
    """The matrix as it stands in the documentation; what did not run in a line below it."""
    heads = ("backend", "model", "precision", "route", f"RMS (max {RMS_LIMIT:g})",
             f"largest (max {MAX_LIMIT:g})", "relative RMS", "labels", "accuracy")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    idle: dict[str, None] = {}
    for cell in record["cells"]:
        if cell["verdict"] == "not run":
            idle[cell["backend"]] = None
            continue
        logits, labels = cell["judgements"][0], cell["labels"]
        lines.append(
            f"| {cell['backend']} | {cell['model']} | {cell['precision']} | {cell['route']} | "
            f"{logits['rms_factor']:.2f} | {logits['max_factor']:.2f} | "
            f"{logits['relative_rms']:.1e} | {labels['agreeing']:,} of {labels['samples']:,} | "
            f"{labels['artifact_accuracy']:.2%} |"
        )
    made = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    lines += ["", f"{record['dataset']}, GPU: {record['gpu'] or 'none'}; {made}."]
    lines += [f"Not run: {', '.join(idle)}."] if idle else []
    return "\n".join(lines)


def with_table(text: str, record: Mapping[str, Any]) -> str:
    """The document with the record's table between its marks."""
    return put_between(text, "parity", table_from_record(record))


if __name__ == "__main__":
    sys.exit(main())
