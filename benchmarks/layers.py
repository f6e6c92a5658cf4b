"""How long it takes to name a planted fault in one of fifty layers.

A model of fifty linear layers is exported once; then one layer gets a fault, and the whole
process ``twinport parity --layers`` is timed until it has named it.

    python benchmarks/layers.py [--rounds 2]

Writes ``benchmarks/results/layers.json`` and the table in ``docs/layers.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import graph_edits as edit
import numpy as np
import onnx
import onnx_ir as ir
from faults import float16
from marks import put_between

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "layers.json"
DOCUMENT = ROOT / "docs" / "layers.md"
PROGRAM = str(Path(sys.executable).with_name("twinport"))
FACTORY = f"{ROOT / 'benchmarks' / 'export_nets.py'}:fifty_layers"
LIMIT_S = 120
NAMED = re.compile(r"first module over its local budget is (\S+) \((\w+)")


def _one_off(values: Any) -> Any:
    """The weight of median size, one per cent larger."""
    changed = values.copy()
    changed.reshape(-1)[np.argsort(np.abs(values), axis=None)[values.size // 2]] *= 1.01
    return changed


FAULTS: dict[str, tuple[str, Callable[[ir.Model], None]]] = {
    "one weight of layer 25 off by 1 %": (
        "layers.50", edit.change_weights(_one_off, "layers.50.weight")),
    "layer 50 in fp16": ("layers.98", edit.change_weights(float16, "layers.98.weight")),
    "ReLU after layer 10 lost": ("layers.19", edit.remove_node("Relu", 9)),
}  # fmt: skip


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds = parser.parse_args().rounds
    record = {"rounds": rounds, "machine": f"{os.cpu_count()} cores", "faults": measured(rounds)}
    RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(put_between(text, "layers", table_from_record(record)), encoding="utf-8")
    print(table_from_record(record))


def measured(rounds: int) -> list[dict]:
    """Best seconds of each fault, and the module that was named."""
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "r"
        run([PROGRAM, "export", FACTORY, "--input", "x:float32[batch,32]", "-o", str(repository)])
        version = repository / "fifty_layers" / "1"
        sound = (version / "model.onnx").read_bytes()
        found = []
        for fault, (module, plant) in FAULTS.items():
            put(version, planted(sound, plant))
            best, named = min(timed(version.parent) for _ in range(rounds))
            if named.partition(" ")[0] != module:
                raise SystemExit(f"'{fault}' is in {module}; named was {named}")
            found.append({"fault": fault, "in": module, "named": named, "seconds": round(best, 2)})
        put(version, sound)
    return found


def timed(model: Path) -> tuple[float, str]:
    """Seconds of the whole process, and the module and class that it names."""
    started = time.perf_counter()
    ended = run([PROGRAM, "parity", str(model), "--layers", "--source", FACTORY], code=1)
    seconds = time.perf_counter() - started
    match = NAMED.search(ended.stderr)
    return seconds, f"{match[1]} ({match[2]})" if match else ended.stderr.strip()


def run(command: list[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    """A process that must end with ``code``."""
    ended = subprocess.run(command, timeout=LIMIT_S, capture_output=True, text=True)
    if ended.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr}")
    return ended


def planted(data: bytes, plant: Callable[[ir.Model], None]) -> bytes:
    """The graph with a fault."""
    model = ir.from_proto(onnx.load_from_string(data))
    plant(model)
    return ir.to_proto(model).SerializeToString()


def put(version: Path, data: bytes) -> None:
    """Make a version's artifact another, and its manifest know it."""
    (version / "model.onnx").write_bytes(data)
    manifest = json.loads((version / "manifest.json").read_text(encoding="utf-8"))
    manifest["artifact"]["sha256"] = hashlib.sha256(data).hexdigest()
    (version / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def table_from_record(record: dict) -> str:
    """Markdown."""
    return "\n".join(
        [
            f"Whole processes, best of {record['rounds']}, {record['machine']}:",
            "",
            "| planted fault | in | named | seconds |",
            "|---|---|---|---|",
            *(
                f"| {item['fault']} | {item['in']} | {item['named']} | {item['seconds']:.1f} |"
                for item in record["faults"]
            ),
        ]
    )


if __name__ == "__main__":
    main()
