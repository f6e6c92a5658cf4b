"""What an export with its proof costs, beside a process that only calls torch.onnx.export.

Whole processes, best of several, in turns. Seconds are of the machine that is named; the
ratios travel better.

    python benchmarks/export.py [--rounds 2] [--check]

Writes ``benchmarks/results/export.json`` and the table in ``docs/layers.md``; ``--check``
exits 1 where a ratio is over its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from marks import put_between

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "export.json"
DOCUMENT = ROOT / "docs" / "layers.md"
NETS = ROOT / "benchmarks" / "export_nets.py"
PROGRAM = str(Path(sys.executable).with_name("twinport"))
MODELS = {"LeNet-5": ("lenet5", "1,32,32"), "ResNet-18": ("resnet18", "3,224,224"),
          "ViT-B/32": ("vit_b_32", "3,224,224")}  # fmt: skip
BARE = """
import sys
sys.path[:0] = {paths}
import torch, export_nets
module = export_nets.{factory}().eval()
torch.onnx.export(module, (torch.zeros(2, {shape}),), "bare.onnx", dynamo=True, verbose=False,
                  dynamic_shapes=({{0: torch.export.Dim("batch")}},))
"""
EXPORT_LIMIT, HELP_LIMIT = 3.0, 4.0
HELP_ROUNDS = 15
LIMIT_S = 180


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    record = measured(options.rounds)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    table = table_from_record(record)
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(put_between(text, "export", table), encoding="utf-8")
    print(table)
    return int(options.check and bool(problems(record)))


def measured(rounds: int) -> dict:
    """Best seconds of each process over all rounds."""
    best: dict[str, dict[str, float]] = {name: {} for name in (*MODELS, "help")}
    proofs: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            for name, (factory, shape) in MODELS.items():
                for what, command in commands(factory, shape, f"r{turn}").items():
                    _note(best[name], what, timed(command, folder))
                manifest = Path(folder, f"r{turn}", factory, "1", "manifest.json")
                proofs[name] = proof_of(manifest)
        for _ in range(HELP_ROUNDS):
            _note(best["help"], "bare", timed([sys.executable, "-c", "pass"], folder))
            _note(best["help"], "export", timed([PROGRAM, "--help"], folder))
    return {
        "rounds": rounds,
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "versions": {name: version(name) for name in ("torch", "torchvision", "onnxruntime")},
        "seconds": best,
        "proofs": proofs,
    }


def commands(factory: str, shape: str, repository: str) -> dict[str, list[str]]:
    """The two processes of a model."""
    bare = BARE.format(paths=[str(NETS.parent), str(ROOT)], factory=factory, shape=shape)
    return {
        "bare": [sys.executable, "-c", bare],
        "export": [
            PROGRAM, "export", f"{NETS}:{factory}", "-o", repository,
            "--input", f"{'image' if factory == 'lenet5' else 'x'}:float32[batch,{shape}]",
        ],
    }  # fmt: skip


def proof_of(manifest: Path) -> dict:
    """What the proof of a version says; one that failed ends the benchmark before."""
    proof = json.loads(manifest.read_text(encoding="utf-8"))["proofs"][0]
    random = [item for item in proof["judgements"] if item["kind"] == "random"]
    return {
        "verdict": proof["verdict"],
        "seconds": proof["seconds"],
        "random_samples": max(item["samples"] for item in random),
        "cut_by_budget": proof["cut_by_budget"],
    }


def timed(command: list[str], folder: str) -> float:
    """Seconds of a process; one that fails ends the benchmark."""
    environment = {k: v for k, v in os.environ.items() if k not in ("TWINPORT_DATA", "PYTHONPATH")}
    started = time.perf_counter()
    subprocess.run(
        command, cwd=folder, env=environment, check=True, timeout=LIMIT_S, capture_output=True
    )
    return time.perf_counter() - started


def _note(best: dict[str, float], what: str, seconds: float) -> None:
    best[what] = round(min(best.get(what, seconds), seconds), 3)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


def ratio(record: dict, name: str) -> float:
    """Of ours to the bare process."""
    seconds = record["seconds"][name]
    return seconds["export"] / seconds["bare"]


def problems(record: dict) -> list[str]:
    """Ratios over their limits."""
    limits = {**dict.fromkeys(MODELS, EXPORT_LIMIT), "help": HELP_LIMIT}
    return [name for name, limit in limits.items() if not ratio(record, name) <= limit]


def table_from_record(record: dict) -> str:
    """Markdown."""
    versions = ", ".join(f"{name} {of}" for name, of in record["versions"].items())
    lines = [
        f"Whole processes, best of {record['rounds']} in turns, {record['machine']}; {versions}:",
        "",
        "| process | seconds | beside | ratio (limit) |",
        "|---|---|---|---|",
    ]
    for name in MODELS:
        seconds, proof = record["seconds"][name], record["proofs"][name]
        cut = ", cut by its budget" if proof["cut_by_budget"] else ""
        lines.append(
            f"| export and proof of {name} ({proof['random_samples']} random samples{cut}) | "
            f"{seconds['export']:.1f} | `torch.onnx.export` alone {seconds['bare']:.1f} | "
            f"{ratio(record, name):.2f} ({EXPORT_LIMIT:g}) |"
        )
    seconds = record["seconds"]["help"]
    lines.append(
        f"| `twinport --help` | {seconds['export']:.3f} | `python -c pass` "
        f"{seconds['bare']:.3f} | {ratio(record, 'help'):.2f} ({HELP_LIMIT:g}) |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
