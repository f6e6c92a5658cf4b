"""What counting the load of experts costs: the mixture served with and without it.

    python benchmarks/experts_load.py [--repository FOLDER] [--check]

Servers that differ in ``--experts-load`` alone run side by side and are asked in turns, the
order turned round each time, so that a noisy neighbour hits all of them; h2load sends. A pair
is one turn with and one without, its ratio the throughput of the one over the other's.

Writes ``benchmarks/results/experts_load.json`` and its table in ``docs/experts.md``;
``--check`` exits 1 where the default costs more than is allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime as ort
from marks import put_between
from serving_load import Case, measured, payload_of
from serving_servers import ROOT, Running, Start, Starter, ours, running

from runtime.settings import EXPERTS_LOAD

RESULTS = ROOT / "benchmarks" / "results" / "experts_load.json"
DOCUMENT = ROOT / "docs" / "experts.md"
MODEL = "moe"
SHARES = ("0", "1")
"""The first is what the others are compared with."""
CASES = (Case(1), Case(32), Case(4, 64))
ALLOWED = 0.97
"""Throughput with the default share over that without."""
_EXPORT = "import sys; from runtime.cli import main; main(['export', 'moe', '-o', sys.argv[1]])"


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, help="with moe; exported where not given")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = options.repository or _exported(Path(folder) / "repository")
        found = measured_pairs(repository.resolve(), Path(folder), options.pairs, options.seconds)
    record = {
        "machine": f"{os.cpu_count()} cores, onnxruntime {ort.__version__}",
        "pairs": options.pairs, "seconds": options.seconds, "cases": found,
    }  # fmt: skip
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    table = table_of(found)
    if options.output == RESULTS:
        text = put_between(DOCUMENT.read_text("utf-8"), "load-cost", table)
        DOCUMENT.write_text(text, encoding="utf-8")
    sys.stdout.write(table + "\n")
    default = f"{EXPERTS_LOAD:g}"
    worst = min(each["ratio"][default]["median"] for each in found)
    if options.check and worst < ALLOWED:
        sys.stdout.write(f"the default costs {1 - worst:.1%}; {1 - ALLOWED:.0%} is allowed\n")
        return 1
    return 0


def measured_pairs(
    repository: Path, folder: Path, pairs: int, seconds: float
) -> list[dict[str, Any]]:
    """By case: the median rate without, and by share the ratios of all pairs to it."""
    with ExitStack() as stack:
        servers = {
            share: stack.enter_context(
                running(_counting(share), repository, folder / share, payload_of(1, MODEL))
            )
            for share in SHARES
        }
        return [_case(servers, case, folder, pairs, seconds) for case in CASES]


def _case(
    servers: dict[str, Running], case: Case, folder: Path, pairs: int, seconds: float
) -> dict[str, Any]:
    rates: dict[str, list[float]] = {share: [] for share in servers}
    for number in range(pairs):
        for share in SHARES if number % 2 else reversed(SHARES):
            found = measured(servers[share], case, seconds, folder, MODEL)
            rates[share].append(found["requests_per_second"])
    without, *others = SHARES
    ratios = {
        share: sorted(a / b for a, b in zip(rates[share], rates[without], strict=True))
        for share in others
    }
    return {
        "in_flight": case.in_flight,
        "rows": case.rows,
        "requests_per_second": median(rates[without]),
        "ratio": {
            share: {"median": median(each), "lowest": each[0], "highest": each[-1]}
            for share, each in ratios.items()
        },
    }


def table_of(found: list[dict[str, Any]]) -> str:
    """Throughput with counting in units of that without, median and range of the pairs."""
    _, *others = SHARES
    head = [f"`--experts-load {share}`" for share in others]
    lines = [
        "| in flight | rows | requests/s without | " + " | ".join(head) + " |",
        "| --- " * (3 + len(others)) + "|",
    ]
    for each in found:
        cells = [
            f"{ratio['median']:.3f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
            for ratio in (each["ratio"][share] for share in others)
        ]
        rate = f"{each['requests_per_second']:,.0f}"
        row = [str(each["in_flight"]), str(each["rows"]), rate, *cells]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _counting(share: str) -> Starter:
    def start(repository: Path, folder: Path, port: int) -> Start:
        how = ours("--experts-load", share)(repository, folder, port)
        # What the answers must be is another benchmark's; it knows LeNet-5 alone.
        return Start(how.command, computes=False)

    return start


def _exported(repository: Path) -> Path:
    subprocess.run([sys.executable, "-c", _EXPORT, str(repository)], cwd=ROOT, check=True)
    return repository


if __name__ == "__main__":
    raise SystemExit(main())
