"""What counting the load of experts costs: the mixture served with and without it.

    python benchmarks/experts_load.py [--repository FOLDER] [--check]

A pair are two servers that differ in ``--experts-load`` alone. They run side by side and are
asked in short turns, the order turned round each time, so that a noisy neighbour hits both;
h2load sends. Its ratio is the throughput of the one over the other's; the same for the
processor time of a request, which hangs less on neighbours. Each pair is started anew: two
processes of the same settings differ by some percent as long as they live.

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
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median
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
RATE, CPU = "requests_per_second", "cpu_us_per_request"
ALLOWED = 0.97
"""Throughput with the default share over that without."""
_EXPORT = "import sys; from runtime.cli import main; main(['export', 'moe', '-o', sys.argv[1]])"


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, help="with moe; exported where not given")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--turns", type=int, default=4, help="of a pair, with and without each")
    parser.add_argument("--seconds", type=float, default=0.4, help="of one turn")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        repository = options.repository or _exported(Path(folder) / "repository")
        found = measured_pairs(repository.resolve(), Path(folder), options)
    record = {
        "machine": f"{os.cpu_count()} cores, onnxruntime {ort.__version__}", "pairs": options.pairs,
        "turns": options.turns, "seconds": options.seconds, "cases": found,
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
    repository: Path, folder: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """By case: the median rate without, and by share the ratios of all pairs to it."""
    by_case = zip(
        *(
            _pair(repository, folder / str(number), number, options)
            for number in range(options.pairs)
        ),
        strict=True,
    )
    return [_case(case, pairs) for case, pairs in zip(CASES, by_case, strict=True)]


def _pair(
    repository: Path, folder: Path, number: int, options: argparse.Namespace
) -> list[dict[str, dict[str, float]]]:
    """By case and share: means over the turns of servers of their own."""
    shares = SHARES if number % 2 else SHARES[::-1]
    with ExitStack() as stack:
        servers = {
            share: stack.enter_context(
                running(_counting(share), repository, folder / share, payload_of(1, MODEL))
            )
            for share in shares
        }
        return [_turns(servers, case, folder, options) for case in CASES]


def _turns(
    servers: dict[str, Running], case: Case, folder: Path, options: argparse.Namespace
) -> dict[str, dict[str, float]]:
    turns: dict[str, list[dict[str, float]]] = {share: [] for share in SHARES}
    for number in range(options.turns):
        for share in SHARES if number % 2 else reversed(SHARES):
            turns[share].append(measured(servers[share], case, options.seconds, folder, MODEL))
    return {
        share: {name: mean(turn[name] for turn in found) for name in (RATE, CPU)}
        for share, found in turns.items()
    }


def _case(case: Case, pairs: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    without, *others = SHARES
    return {
        "in_flight": case.in_flight,
        "rows": case.rows,
        "requests_per_second": median(pair[without][RATE] for pair in pairs),
        "ratio": {share: _ratios(pairs, share, RATE) for share in others},
        "cpu_ratio": {share: _ratios(pairs, share, CPU) for share in others},
    }


def _ratios(
    pairs: Sequence[dict[str, dict[str, float]]], share: str, name: str
) -> dict[str, float]:
    found = sorted(pair[share][name] / pair[SHARES[0]][name] for pair in pairs)
    return {"median": median(found), "lowest": found[0], "highest": found[-1]}


def table_of(found: list[dict[str, Any]]) -> str:
    """Counting in units of none, median and range of the pairs."""
    _, *others = SHARES
    head = [
        f"{what}, `--experts-load {share}`"
        for share in others
        for what in ("requests/s", "CPU a request")
    ]
    lines = [
        "| in flight | rows | requests/s without | " + " | ".join(head) + " |",
        "| --- " * (3 + len(head)) + "|",
    ]
    for each in found:
        cells = [
            f"{ratio['median']:.3f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"
            for share in others
            for ratio in (each["ratio"][share], each["cpu_ratio"][share])
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
