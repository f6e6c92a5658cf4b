"""How fast LeNet-5 is served, beside the transports alone, the library alone, and others.

    python benchmarks/serving.py [--peers triton=PYTHON,mlserver=PYTHON] [--check]

Servers take turns, each started anew in every round, so that a noisy neighbour hits all of
them; h2load (Debian: nghttp2-client) and grpcio send. PYTHON is that of an environment
with the peer in it; a peer without one is looked for in this environment. Everything
listens on 127.0.0.1. Ratios of one run travel; seconds are of the machine that is named.

Writes ``benchmarks/results/serving.json``, ``serving.svg`` and the tables in
``docs/speed.md`` and the README; ``--check`` exits 1 where a target does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from serving_load import (
    ALONE,
    BY_GRPCIO,
    MANY,
    ONE,
    SPREAD,
    Case,
    LoadFailed,
    measured,
    payload_of,
)
from serving_peers import PEERS
from serving_servers import (
    NotRun,
    Starter,
    bare,
    empty,
    empty_aio,
    ours,
    running,
)
from serving_session import artifact_of, session_of
from serving_tables import judged, with_summary, with_tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "serving.json"
PLOT = RESULTS.with_suffix(".svg")
README = ROOT / "README.md"
DOCUMENT = ROOT / "docs" / "speed.md"
WORKERS = tuple(Case(count, connections=8) for count in (8, 32, 128))
BATCHES = (1, 8, 32, 64)
_EXPORT = "import sys; from runtime.cli import main; main(['export', 'lenet5', '-o', sys.argv[1]])"


def main() -> int:
    """Measure, write, print."""
    options = _options()
    peers = dict(_named(peer) for peer in options.peers.split(",") if peer)
    servers: dict[str, tuple[Starter, tuple[Case, ...]]] = {
        "empty grpc.aio": (empty_aio, (*ONE, *MANY, *SPREAD)),
        "empty grpcio": (empty("grpcio"), (*ONE, *MANY, *SPREAD)),
        "bare grpcio": (bare("grpcio"), ALONE),
        "grpcio": (ours(), (*ONE, *MANY, *SPREAD, *BY_GRPCIO)),
        "empty envoy": (empty("envoy"), (*ONE, *MANY, *SPREAD)),
        "bare envoy": (bare("envoy"), ALONE),
        "envoy": (ours("--transport", "envoy"), (*ONE, *MANY, *SPREAD, *BY_GRPCIO)),
        "grpcio, 2 workers": (ours("--workers", "2"), WORKERS),
    }
    for name, starter in peers.items():
        servers[name] = (starter, (*ONE, *MANY, *SPREAD, *BY_GRPCIO))
    with tempfile.TemporaryDirectory() as folder:
        repository = options.repository or exported(Path(folder) / "repository")
        record = run(servers, repository, Path(folder), options)
    record["not_run"].update(
        {name: "not asked for (--peers)" for name in PEERS if name not in servers}
    )
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.output == RESULTS:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_tables(text, record), encoding="utf-8")
        text = README.read_text(encoding="utf-8")
        README.write_text(with_summary(text, record), encoding="utf-8")
        from serving_plot import draw

        draw(record, PLOT)
    verdicts = judged(record)
    for name, why in record["not_run"].items():
        print(f"not run: {name}: {why}")
    for text, holds in verdicts:
        print({True: "holds:  ", False: "FAILS:  ", None: "unknown:"}[holds], text)
    return 1 if options.check and not all(holds for _, holds in verdicts) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, choices=range(1, 21), default=3)
    parser.add_argument("--seconds", type=float, default=0.8, help="of one measurement")
    parser.add_argument("--peers", default="", help="triton, mlserver, ray; NAME or NAME=PYTHON")
    parser.add_argument("--repository", type=Path, help="with lenet5; exported where not given")
    parser.add_argument("--only", default="", help="servers to run, by name")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="exit 1 where a target fails")
    options = parser.parse_args()
    if not 0.1 <= options.seconds <= 60:
        parser.error(f"--seconds is {options.seconds:g}; wanted 0.1 to 60")
    if options.repository:
        options.repository = options.repository.resolve()
    return options


def _named(peer: str) -> tuple[str, Starter]:
    name, _, python = peer.partition("=")
    if name not in PEERS:
        raise SystemExit(f"peer '{name}' is not known; use {', '.join(PEERS)}")
    return name, PEERS[name](python or sys.executable)


def exported(folder: Path) -> Path:
    """A repository with LeNet-5, made as a user makes it."""
    subprocess.run(
        [sys.executable, "-c", _EXPORT, str(folder)],
        check=True, timeout=300, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return folder


def run(
    servers: Mapping[str, tuple[Starter, tuple[Case, ...]]],
    repository: Path,
    folder: Path,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """All rounds; a server that cannot run is left out from then on, and named."""
    began = time.monotonic()
    record: dict[str, Any] = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "machine": f"{os.cpu_count()} cores, {_processor()}",
        "versions": {name: version(name) for name in ("onnxruntime", "grpcio", "numpy")},
        "limit": {str(rows): [] for rows in BATCHES},
        "servers": {},
        "not_run": {},
    }
    wanted = [each for each in options.only.split(",") if each]
    for number in range(options.rounds):
        for rows, images in limit(repository, options.seconds / 2).items():
            record["limit"][str(rows)].append(images)
        for name, (starter, cases) in servers.items():
            if name in record["not_run"] or (wanted and name not in wanted):
                continue
            print(f"round {number + 1} of {options.rounds}: {name}", flush=True)
            place = folder / name.replace(", ", "-").replace(" ", "-")
            try:
                one_round(record, name, starter, cases, repository, place, options.seconds)
            except NotRun as error:
                record["not_run"][name] = str(error)
    record["took_s"] = round(time.monotonic() - began)
    return record


def one_round(
    record: dict[str, Any],
    name: str,
    starter: Starter,
    cases: tuple[Case, ...],
    repository: Path,
    folder: Path,
    seconds: float,
) -> None:
    """Start a server, send every case, end it, and add what was seen to the record."""
    found = record["servers"].setdefault(
        name, {"ready_s": [], "resident_mb": [], "exit_ms": [], "cases": {}, "failed": {}}
    )
    with running(starter, repository, folder, payload_of(1)) as server:
        found["ready_s"].append(round(server.ready_s, 3))
        for case in cases:
            try:
                values = measured(server, case, seconds, folder)
            except LoadFailed as error:
                found["failed"][case.key] = str(error)
                print(f"  {error}", flush=True)
                continue
            kept = found["cases"].setdefault(case.key, {key: [] for key in values})
            for key, value in values.items():
                kept[key].append(round(value, 3))
        found["resident_mb"].append(round(server.resident_mb(), 1))
        # Idle: what the last answers left to do is done.
        time.sleep(0.3)
    found["exit_ms"].append(None if server.exit_ms is None else round(server.exit_ms, 1))


def limit(repository: Path, seconds: float) -> dict[int, float]:
    """Images per second of ONNX Runtime called in this process, one thread, by batch."""
    session = session_of(artifact_of(repository))
    found = {}
    for rows in BATCHES:
        images = np.random.default_rng(rows).random((rows, 1, 32, 32), dtype=np.float32)
        for _ in range(5):
            session.run(["logits"], {"image": images})
        calls, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            session.run(["logits"], {"image": images})
            calls += 1
        found[rows] = round(calls * rows / passed, 1)
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


if __name__ == "__main__":
    sys.exit(main())
