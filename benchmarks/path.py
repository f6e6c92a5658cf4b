"""How long the path from checkpoint to answered request takes, command by command.

Each is a whole process, best of several, in turns, so that a noisy neighbour hits all of
them. Seconds are of the machine that is named; the ratios travel better.

    python benchmarks/path.py [--rounds 3]

Writes ``benchmarks/results/path.json`` and the table in the README.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from marks import put_between

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "path.json"
README = ROOT / "README.md"
PROGRAM = [str(Path(sys.executable).with_name("twinport"))]
BARE_EXPORT = """
import torch
from models.registry import entry
module = entry("lenet5").load()
torch.onnx.export(module, (torch.zeros(2, 1, 32, 32),), "bare.onnx", dynamo=True, verbose=False,
                  dynamic_shapes={"image": {0: torch.export.Dim("batch")}})
"""
LIMIT_S = 180


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        best = measure(Path(folder), rounds)
    record = {
        "rounds": rounds,
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime", "grpcio")},
        "seconds": {name: round(seconds, 3) for name, seconds in best.items()},
    }
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    README.write_text(with_table(text, record), encoding="utf-8")
    print(table_from_record(record))


def measure(folder: Path, rounds: int) -> dict[str, float]:
    """Best seconds of each step over all rounds."""
    steps: dict[str, Callable[[], float]] = {
        "pass": lambda: timed([sys.executable, "-c", "pass"], folder),
        "help": lambda: timed([*PROGRAM, "--help"], folder),
        "bare": lambda: timed([sys.executable, "-c", BARE_EXPORT], folder),
        "export": lambda: timed([*PROGRAM, "export", "lenet5", "-o", "repository"], folder),
        "parity": lambda: timed([*PROGRAM, "parity", "repository/lenet5"], folder),
        "ready": lambda: until_ready(folder),
        "demo": lambda: timed([*PROGRAM, "demo", "-o", "demo"], folder),
    }
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds):
        for name, step in steps.items():
            best[name] = min(best[name], step())
    return best


def timed(command: list[str], folder: Path) -> float:
    """Seconds of a process; one that fails ends the benchmark."""
    started = time.perf_counter()
    subprocess.run(
        command, cwd=folder, env=_environment(), check=True, timeout=LIMIT_S, capture_output=True
    )
    return time.perf_counter() - started


def until_ready(folder: Path) -> float:
    """Seconds from start to the last line of ``serve`` before it waits for requests."""
    command = [*PROGRAM, "serve", "repository", "--port", "0", "--state", "state"]
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    ) as process:  # fmt: skip
        for line in process.stdout:
            if "models ready" in line:
                break
        seconds = time.perf_counter() - started
        process.terminate()
    return seconds


def _environment() -> dict[str, str]:
    """Without MNIST, so that every machine proves on the same data."""
    return {name: value for name, value in os.environ.items() if name != "TWINPORT_DATA"}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def table_from_record(record: dict) -> str:
    """The README's table."""
    seconds = record["seconds"]
    help_ratio = seconds["help"] / seconds["pass"]
    rows = [
        ("`twinport --help`", "help", f"{help_ratio:.1f} times `python -c pass`"),
        ("`torch.onnx.export` of LeNet-5 alone", "bare", ""),
        ("`twinport export lenet5`, proof included", "export",
         f"{seconds['export'] / seconds['bare']:.2f} times the bare export"),
        ("`twinport parity`", "parity", ""),
        ("`twinport serve` until ready, replay included", "ready", ""),
        ("`twinport demo`", "demo", ""),
    ]  # fmt: skip
    versions = ", ".join(f"{name} {of}" for name, of in record["versions"].items())
    lines = [
        f"Whole processes, best of {record['rounds']}, on {record['machine']}; {versions}",
        "(`benchmarks/path.py`):",
        "",
        "| step | seconds | beside |",
        "|---|---|---|",
        *(f"| {label} | {seconds[key]:.2f} | {beside} |" for label, key, beside in rows),
    ]
    return "\n".join(lines)


def with_table(text: str, record: dict) -> str:
    """The README with the table of a record between its marks."""
    return put_between(text, "measured", table_from_record(record))


if __name__ == "__main__":
    main()
