"""Where the microseconds of one request go inside the server, step by step.

    python benchmarks/serving_profile.py [--repository FOLDER]

Each step runs by itself in a warm loop, the median of many, ONNX Runtime after a sleep too;
then whole requests go through the servicer without any transport, 1, 8 and 32 in flight. What
the whole takes beyond its steps is the queue and the event loop. Writes
``benchmarks/results/serving_profile.json`` and its table in ``docs/speed.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from marks import put_between
from serving import exported
from serving_load import payload_of
from serving_servers import METHOD

from protos import ModelInferRequest
from runtime.codec import arrays_from_request
from runtime.model import Model
from runtime.plain_wire import PlainAnswers
from runtime.request_forms import Forms
from runtime.server import Life
from runtime.service.call import Call
from runtime.settings import ServerSettings
from runtime.transports.wire import framed

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "serving_profile.json"
DOCUMENT = ROOT / "docs" / "speed.md"
ROWS = (1, 64)
IN_FLIGHT = (1, 8, 32)
SECONDS = 0.5
SLEEP_SECONDS = 250e-6
"""As a server with one request in flight does between two of them."""
_ITEMS = 50
_ASLEEP = f"ONNX Runtime after a sleep of {SLEEP_SECONDS * 1e6:.0f}"


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, help="with lenet5; exported where not given")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as folder:
        repository = options.repository or exported(Path(folder) / "repository")
        record = uvloop.run(profiled(repository, Path(folder) / "state"))
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.output == RESULTS:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(with_table(text, record), encoding="utf-8")
    print(table_from_record(record))
    return 0


async def profiled(repository: Path, state: Path) -> dict[str, Any]:
    """Microseconds of each step, and of whole requests by requests in flight."""
    life = Life(ServerSettings(repository, port=0, state=state, metrics=False), lambda _line: None)
    await life.load()
    model = life.servicer._repository.model("lenet5")
    steps = {str(rows): steps_of(payload_of(rows), model) for rows in ROWS}
    whole = {
        f"{count}{'' if rows == 1 else f'x{rows}'}": await through(life, payload_of(rows), count)
        for rows in ROWS
        for count in IN_FLIGHT
    }
    model.close()
    return {"machine": f"{os.cpu_count()} cores", "steps": steps, "whole": whole}


def steps_of(payload: bytes, model: Model) -> dict[str, float]:
    """Microseconds of every step of one request."""
    backend, forms = model._backends[0], Forms()

    def read() -> Mapping[str, Any]:
        usual = forms.read(payload)
        assert usual is not None, "nothing about the request is unusual"
        fit = usual.form.fit(model)
        assert fit is not None, "it fits the model"
        arrays = usual.arrays(fit, payload)
        assert arrays is not None, "so does its data"
        return arrays

    def read_the_long_way() -> Mapping[str, Any]:
        return arrays_from_request(ModelInferRequest.FromString(payload), model.record.inputs)

    arrays = read()
    outputs = backend.infer(arrays, ["logits"])
    answers = PlainAnswers()
    answer = answers.answer(outputs, model="lenet5", version=1)
    assert answer is not None, "numbers are answered on the short way"
    calls: dict[str, Callable[[], object]] = {
        "read the request": read,
        "read it the long way": read_the_long_way,
        "ONNX Runtime": lambda: backend.infer(arrays, ["logits"]),
        "write the answer": lambda: answers.answer(outputs, model="lenet5", version=1),
        "frame it (envoy)": lambda: framed(answer),
    }
    found = {name: round(timed(call), 2) for name, call in calls.items()}
    found[_ASLEEP] = round(timed_after_sleep(calls["ONNX Runtime"]), 2)
    return found


def timed(call: Callable[[], object]) -> float:
    """Median microseconds of a call, over blocks of calls."""
    found = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(_ITEMS):
            call()
        found.append((time.perf_counter() - start) / _ITEMS)
    return median(found) * 1e6


def timed_after_sleep(call: Callable[[], object]) -> float:
    """Median microseconds of a call of a thread that slept before each."""
    found = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        time.sleep(SLEEP_SECONDS)
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return median(found) * 1e6


async def through(life: Life, payload: bytes, in_flight: int) -> float:
    """Microseconds a request of the servicer, without a transport."""
    call, done = Call(), 0
    start = time.perf_counter()
    end = start + 2 * SECONDS

    async def keep_one() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await life.servicer.unary(METHOD, payload, call)
            done += 1

    await asyncio.gather(*(keep_one() for _ in range(in_flight)))
    return round((time.perf_counter() - start) / done * 1e6, 2)


def table_from_record(record: Mapping[str, Any]) -> str:
    """The steps, then the whole."""
    lines = [
        f"| step, microseconds ({record['machine']}) | one image | 64 images |",
        "|---|---|---|",
    ]
    one, many = (record["steps"][str(rows)] for rows in ROWS)
    lines += [f"| {name} | {one[name]:.1f} | {many[name]:.1f} |" for name in one]
    for count in IN_FLIGHT:
        whole = [record["whole"][key] for key in (f"{count}", f"{count}x64")]
        cells = " | ".join(f"{value:.1f}" for value in whole)
        lines.append(f"| **whole request, {count} in flight, no transport** | {cells} |")
    return "\n".join(lines)


def with_table(text: str, record: Mapping[str, Any]) -> str:
    """The document with the table of a record between its marks."""
    return put_between(text, "profile", table_from_record(record))


if __name__ == "__main__":
    sys.exit(main())
