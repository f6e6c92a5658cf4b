"""What an exported layer of experts costs, beside PyTorch and the best that is known by hand.

    python benchmarks/moe_forms.py [--quick] [--check]

At width 256, hidden 1024, top-2, one thread: microseconds a call of the exported graph, of
three graphs written by hand (``moe_yardsticks.py``) and of the eager layer, in turns on the
same inputs, so that a noisy neighbour hits all of them; of each input the best call counts.
Then the seconds that a layer of 64 experts takes to export, here and with torch alone.
Writes ``benchmarks/results/moe_forms.json`` and the table in ``docs/moe.md``; ``--quick``
measures less and writes nothing; ``--check`` exits 1 where a criterion does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from marks import put_between
from moe_yardsticks import YARDSTICKS, StaticLoop

from exporter.experts.adapters import find_layers
from exporter.graph import onnx_from_module
from exporter.passes.expand_experts import expand_experts
from exporter.passes.run import run_passes
from exporter.source import Source
from models.moe import MoELayer
from runtime.tensors import TensorSpec

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "moe_forms.json"
DOCUMENT = ROOT / "docs" / "moe.md"
WIDTH, HIDDEN, TOP_K = 256, 1024, 2
EXPERTS, TOKENS = (8, 32, 64), (1, 16, 256)
INPUTS = 6
WITHIN, FASTER_EXPORT = 1.15, 5.0
AGREE = 1e-5
"""Of the largest output: all forms compute the same layer before any is timed."""

Call = Callable[[Any], Any]


def main() -> int:
    """Measure, judge, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer calls; nothing is written")
    parser.add_argument("--check", action="store_true", help="exit 1 where a criterion fails")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds = 3 if options.quick else 30
    points = [point for experts in EXPERTS for point in measured(layer_of(experts), rounds, TOKENS)]
    record = {
        "machine": f"{os.cpu_count()} cores, {processor()}",
        "versions": {name: version(name) for name in ("torch", "onnx", "onnxruntime")},
        "rounds": rounds,
        "points": points,
        "export_s": export_seconds(8 if options.quick else 64),
    }
    record["problems"] = problems(record)
    if not options.quick:
        RESULTS.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_table(text, record), encoding="utf-8")
    print(table_from_record(record))
    for problem in record["problems"]:
        print(problem, file=sys.stderr)
    return 1 if options.check and record["problems"] else 0


def layer_of(experts: int) -> MoELayer:
    """A layer with random weights whose experts are not all equally popular."""
    torch.manual_seed(experts)
    layer = MoELayer(WIDTH, HIDDEN, experts, TOP_K).eval().requires_grad_(False)
    torch.nn.init.normal_(layer.gate.weight, std=WIDTH**-0.5)
    torch.nn.init.normal_(layer.gate.bias, std=0.3)
    return layer


def measured(layer: MoELayer, rounds: int, token_counts: Sequence[int]) -> list[dict[str, Any]]:
    """Best microseconds of every contender at each number of tokens."""
    by_hand = {name: call_of(make(layer).SerializeToString()) for name, make in YARDSTICKS.items()}
    points = []
    for tokens in token_counts:
        calls = {"exported": call_of(exported(layer, tokens)), **by_hand}
        calls["eager"] = lambda x: eager(layer, x)
        inputs = [
            np.random.default_rng(seed).standard_normal((tokens, WIDTH)).astype(np.float32)
            for seed in range(INPUTS)
        ]
        check_agreement(calls, inputs[0])
        best = timed(calls, inputs, rounds * max(1, 16 // tokens))
        points.append({"experts": len(layer.experts), "tokens": tokens, "microseconds": best})
    return points


def exported(layer: MoELayer, tokens: int | None) -> bytes:
    """What ``twinport export`` writes for a declared number of tokens, or for 1 to 256."""
    axis = "T" if tokens is None else tokens
    source = Source(
        "moe", "moe", layer, (TensorSpec("x", "float32", (axis, WIDTH)),), ("y", "logits"),
        {"T": (1, 256)} if tokens is None else {}, {}, None, experts=find_layers(layer),
    )  # fmt: skip
    model = run_passes(onnx_from_module(source), [expand_experts("auto", source.ranges)])
    return bytes(ir.to_proto(model).SerializeToString())


def call_of(model: bytes) -> Call:
    """One call of a graph in ONNX Runtime, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(["y", "logits"], {"x": x})[0]


def eager(layer: MoELayer, x: Any) -> Any:
    """One call of the layer itself, array in and array out."""
    with torch.inference_mode():
        return layer(torch.from_numpy(x))[0].numpy()


def check_agreement(calls: Mapping[str, Call], x: Any) -> None:
    """Refuse to time forms that compute different things."""
    wanted = calls["eager"](x)
    for name, call in calls.items():
        error = np.abs(call(x) - wanted).max() / np.abs(wanted).max()
        if not error <= AGREE:
            raise SystemExit(f"{name} is {error:.1e} off PyTorch; wanted at most {AGREE:.0e}")


def timed(calls: Mapping[str, Call], inputs: Sequence[Any], rounds: int) -> dict[str, float]:
    """Microseconds a call: of each input the best, of these the mean."""
    best = {name: [float("inf")] * len(inputs) for name in calls}
    for _ in range(rounds):
        for i, x in enumerate(inputs):
            for name, call in calls.items():
                started = time.perf_counter()
                call(x)
                best[name][i] = min(best[name][i], time.perf_counter() - started)
    return {name: round(1e6 * sum(of) / len(of), 1) for name, of in best.items()}


def export_seconds(experts: int) -> dict[str, Any]:
    """Seconds from the module to the graph, both with a free number of tokens."""
    layer = layer_of(experts)
    started = time.perf_counter()
    exported(layer, None)
    ours = time.perf_counter() - started
    loop, x = StaticLoop(layer).eval(), torch.zeros(4, WIDTH)
    started = time.perf_counter()
    program = torch.export.export(loop, (x,), dynamic_shapes=({0: torch.export.Dim("T", max=256)},))
    torch.onnx.export(program, dynamo=True, verbose=False)
    torchs = time.perf_counter() - started
    return {"experts": experts, "twinport": round(ours, 2), "torch": round(torchs, 2)}


def problems(record: Mapping[str, Any]) -> list[str]:
    """The criteria that do not hold, in words."""
    found = []
    for point in record["points"]:
        times, where = point["microseconds"], f"{point['experts']} experts, T {point['tokens']}"
        if not times["exported"] <= WITHIN * best_by_hand(times):
            ratio = times["exported"] / best_by_hand(times)
            found.append(f"{where}: {ratio:.2f} times the best form; wanted {WITHIN}")
        if not times["exported"] < times["eager"]:
            found.append(f"{where}: {times['exported']} µs, PyTorch {times['eager']} µs")
    export = record["export_s"]
    if not export["torch"] >= FASTER_EXPORT * export["twinport"]:
        ratio = export["torch"] / export["twinport"]
        found.append(f"export {ratio:.1f} times as fast as torch; wanted {FASTER_EXPORT}")
    return found


def best_by_hand(times: Mapping[str, float]) -> float:
    """Microseconds of the fastest graph that is written by hand."""
    return min(times[name] for name in YARDSTICKS)


def table_from_record(record: Mapping[str, Any]) -> str:
    """The table of the documentation."""
    names = ["eager", *YARDSTICKS, "exported"]
    versions = ", ".join(f"{name} {of}" for name, of in record["versions"].items())
    export = record["export_s"]
    rows = []
    for point in record["points"]:
        times = point["microseconds"]
        cells = [f"{times[name]:,.0f}" for name in names]
        ratio = times["exported"] / best_by_hand(times)
        rows.append(
            f"| {point['experts']} | {point['tokens']} | {' | '.join(cells)} | {ratio:.2f} |"
        )
    lines = [
        f"Microseconds a call, one thread, width {WIDTH}, hidden {HIDDEN}, top-{TOP_K}, on",
        f"{record['machine']}; {versions} (`benchmarks/moe_forms.py`):",
        "",
        "| experts | T | PyTorch | sorted | NonZero | operator | exported | beside the best |",
        "|---|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"A layer of {export['experts']} experts is exported in {export['twinport']:.1f} s;",
        f"torch's own exporter takes {export['torch']:.1f} s for a loop over all of them.",
    ]
    return "\n".join(lines)


def with_table(text: str, record: Mapping[str, Any]) -> str:
    """The document with the record's table between its marks."""
    return put_between(text, "measured", table_from_record(record))


def processor() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown"


if __name__ == "__main__":
    sys.exit(main())
