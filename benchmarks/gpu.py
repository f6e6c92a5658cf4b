"""PyTorch, ONNX Runtime and TensorRT side by side on one GPU: latency, throughput, parity.

    python benchmarks/gpu.py [--batches 1,8,64,1024] [--seconds 1] [--budget 600]

A call takes arrays of the host and gives arrays of the host, copies included, one call at a
time; TF32 is off everywhere, so that all compute the same. What is not on this machine, or
does not run on its GPU, is listed with the reason. Writes ``benchmarks/results/gpu.json``.

``--device cpu`` runs what runs there, to try the program; nothing of it is written.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity_matrix import MODELS, versions

from exporter.demo import first_rows
from exporter.engine.options import EngineOptions
from exporter.engine.pipeline import EngineRequest, build_engine
from exporter.engine.profiles import profile_from_text
from exporter.engine.progress import BuildView
from exporter.matrix import Cell, Yardstick, judged, measure_yardstick
from exporter.pipeline import ExportRequest, export_model
from exporter.real import digit_data
from exporter.source import SourceRequest, load_source
from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.backends.plan import FLAVOURS
from runtime.errors import TwinportError
from runtime.layout import version_numbers
from runtime.loading import backend_of, backend_options
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import read_manifest

RESULTS = Path(__file__).parent / "results" / "gpu.json"
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
EAGER, COMPILED, ONNX = "PyTorch eager", "PyTorch compiled", "ONNX Runtime"
CONTENDERS = (EAGER, COMPILED, ONNX, *(flavour.title for flavour in FLAVOURS.values()))
WARM_UP = 3
LEAST_CALLS = 5
PARITY_ROWS = 1024
LOGITS = "logits"

Rows = Mapping[str, Any]
Infer = Callable[[Rows], Mapping[str, Any]]


@dataclass(frozen=True)
class Point:
    """One contender at one batch."""

    model: str
    contender: str
    batch: int
    calls: int
    p50_ms: float
    p99_ms: float
    images_per_s: float


@dataclass
class Record:
    """All that ran, and what did not."""

    device: str
    capability: str | None
    versions: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    parity: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[dict[str, str]] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> int:
    """Export, build, measure, print, write."""
    options = _options(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu.py: torch finds no GPU; --device cpu tries the program", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        absent = prepare(Path(folder), options.models, max(options.batches))
        record = run(Path(folder), options, absent)
    print(table(record))
    if options.device == "cuda":
        RESULTS.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
    return 1 if any(item["verdict"] != "passed" for item in record.parity) else 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> tuple[int, ...]:
        return tuple(int(item) for item in text.split(","))

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--batches", type=numbers, default=BATCHES)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seconds", type=float, default=1.0, help="of each point")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds of all points")
    return parser.parse_args(argv)


def prepare(repository: Path, models: Sequence[str], largest: int) -> dict[str, str]:
    """Export for batches up to ``largest``, build engines; why one is absent, by its name."""
    absent = {}
    for name in models:
        source = SourceRequest(name, ranges={"batch": (1, largest)})
        export_model(ExportRequest(source, repository, moe_form=MODELS[name]))
        best = profile_from_text(f"batch=1,{min(64, largest)},{largest}")
        for flavour in FLAVOURS.values():
            engine = EngineRequest(
                repository / name, flavour=flavour.name, options=EngineOptions(profiles=(best,))
            )
            try:
                build_engine(engine, BuildView())
            except TwinportError as error:
                absent[f"{name}{flavour.suffix}"] = str(error)
    return absent


def run(repository: Path, options: argparse.Namespace, absent: Mapping[str, str]) -> Record:
    """Measure every contender on every batch, until the budget is over."""
    record = Record(*_device(options.device), versions=dict(versions()))
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    until = time.monotonic() + options.budget
    for model in options.models:
        source = load_source(SourceRequest(model))
        yard = measure_yardstick(source, first_rows(digit_data(source), PARITY_ROWS))
        yard = replace(yard, truth={LOGITS: yard.truth[LOGITS]})
        made = contenders(repository, yard, options.device, absent)
        for contender in options.contenders:
            with ExitStack() as stack:
                try:
                    infer = made[contender](stack)
                    check(record, yard, contender, infer)
                    measure(record, yard, contender, infer, options, until)
                except TwinportError as error:
                    _skip(record, model, contender, str(error))
                except Exception as error:
                    # A compiler or a library of another maker; the others go on.
                    _skip(record, model, contender, f"{type(error).__name__}: {error}")
    return record


def _device(device: str) -> tuple[str, str | None]:
    if device == "cpu":
        return "cpu", None
    return torch.cuda.get_device_name(0), "{}.{}".format(*torch.cuda.get_device_capability(0))


def contenders(
    repository: Path, yard: Yardstick, device: str, absent: Mapping[str, str]
) -> dict[str, Callable[[ExitStack], Infer]]:
    """How each is opened; a failure says why it does not run."""
    module = yard.module.to(device)

    def opened(name: str) -> Callable[[ExitStack], Infer]:
        return lambda stack: _artifact(stack, repository / name, device, absent)

    return {
        EAGER: lambda _: _torch(module, device),
        COMPILED: lambda _: _torch(torch.compile(module, dynamic=True), device),
        ONNX: opened(yard.model),
        **{of.title: opened(f"{yard.model}{of.suffix}") for of in FLAVOURS.values()},
    }


def _torch(module: Any, device: str) -> Infer:
    def infer(rows: Rows) -> Mapping[str, Any]:
        with torch.inference_mode():
            images = torch.from_numpy(rows["image"]).to(device)
            return {LOGITS: module(images).cpu().numpy()}

    return infer


def _artifact(stack: ExitStack, folder: Path, device: str, absent: Mapping[str, str]) -> Infer:
    if folder.name in absent:
        raise TwinportError(absent[folder.name])
    version = folder / str(max(version_numbers(folder)))
    manifest = read_manifest(version / MANIFEST_FILE)
    options = backend_options(BackendOptions(device=device), manifest)
    path = version / manifest.artifact.file
    backend = stack.enter_context(closing(open_backend(backend_of(manifest), path, options)))
    return lambda rows: backend.infer(rows, (LOGITS,))


def check(record: Record, yard: Yardstick, contender: str, infer: Infer) -> None:
    """Hold the answers to the truth, as the parity suite does."""
    place = Cell(contender, yard.model, "fp32", "in process", "not run")
    cell = judged(place, yard, infer)
    first = cell.judgements[0] if cell.judgements else None
    record.parity.append(
        {
            "model": yard.model, "contender": contender, "verdict": cell.verdict,
            "reason": cell.reason, "rms_factor": first.rms_factor if first else None,
            "relative_rms": first.relative_rms if first else None,
        }
    )  # fmt: skip


def measure(
    record: Record,
    yard: Yardstick,
    contender: str,
    infer: Infer,
    options: argparse.Namespace,
    until: float,
) -> None:
    """One point for each batch."""
    for batch in options.batches:
        if time.monotonic() > until:
            reason = f"batch {batch} and above: the budget of {options.budget:g} s was over"
            _skip(record, yard.model, contender, reason)
            return
        images = np.resize(yard.data.inputs["image"], (batch, 1, 32, 32))
        times = _timed(lambda rows={"image": images}: infer(rows), options.seconds)
        record.points.append(
            Point(
                yard.model, contender, batch, len(times),
                round(float(np.percentile(times, 50)) * 1e3, 4),
                round(float(np.percentile(times, 99)) * 1e3, 4),
                round(batch * len(times) / sum(times), 1),
            )
        )  # fmt: skip


def _timed(call: Callable[[], Any], seconds: float) -> list[float]:
    """Seconds of each call, after some that are not counted."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    spent = 0.0
    while len(times) < LEAST_CALLS or spent < seconds:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
        spent += times[-1]
    return times


def _skip(record: Record, model: str, contender: str, reason: str) -> None:
    line = (reason.strip().splitlines() or ["no reason given"])[0][:300]
    record.not_run.append({"model": model, "contender": contender, "reason": line})


def table(record: Record) -> str:
    """Markdown: a row for each batch, then parity, then what did not run."""
    names = list(dict.fromkeys(point.contender for point in record.points))
    lines = [
        f"{record.device}, milliseconds a call (p50 / p99) and images a second",
        "",
        f"| model | batch | {' | '.join(names)} |",
        "|---" * (2 + len(names)) + "|",
        *_rows(record, names),
        "",
    ]
    lines += [
        f"{item['model']}, {item['contender']}: {item['verdict']}, {item['rms_factor']:.2f} x "
        f"float32's own error, relative RMS {item['relative_rms']:.1e}"
        if item["rms_factor"] is not None
        else f"{item['model']}, {item['contender']}: {item['verdict']}, {item['reason']}"
        for item in record.parity
    ]
    lines += [
        f"not run: {item['model']}, {item['contender']}: {item['reason']}"
        for item in record.not_run
    ]
    return "\n".join(lines)


def _rows(record: Record, names: Sequence[str]) -> Iterator[str]:
    found = {(point.model, point.batch, point.contender): point for point in record.points}
    for model, batch in dict.fromkeys((point.model, point.batch) for point in record.points):
        cells = [found.get((model, batch, name)) for name in names]
        texts = [
            f"{point.p50_ms:.3f} / {point.p99_ms:.3f}, {point.images_per_s:,.0f}" if point else "-"
            for point in cells
        ]
        yield f"| {model} | {batch} | {' | '.join(texts)} |"


if __name__ == "__main__":
    logging.captureWarnings(True)
    sys.exit(main())
