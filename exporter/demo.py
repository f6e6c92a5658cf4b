"""The whole path once: export, prove, serve in a process of its own, ask, compare."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from exporter.real import RealData
from exporter.source import Source
from exporter.truth import Truth, torch_float32
from runtime.client import Client
from runtime.error_pool import ErrorPool
from runtime.errors import Unavailable
from runtime.manifest import LOAD_OUTPUT
from runtime.proof import ROUTING_MARGIN, all_passed, is_load, judge
from runtime.proof_records import Judgement
from runtime.tensors import Array

READY_SECONDS = 30.0
STOP_SECONDS = 15.0
LISTENING = "listening on "
ROWS_A_REQUEST = 32
SINGLE_REQUESTS = 10
"""Images that are sent one by one; the rest goes in batches."""


@dataclass(frozen=True)
class Answers:
    """What was served beside what PyTorch says and what is true.

    Attributes:
        served: ``[images]`` class by the largest logit of the server's answer.
        pytorch: ``[images]`` class by PyTorch in float32.
        truth: ``[images]`` the data set's label.
        judgements: The served outputs, pooled, against the float64 truth; the logits first,
            then the load of the experts where there are any.
        load: ``[layers, experts]`` tokens of all images; none without experts.
    """

    served: Array
    pytorch: Array
    truth: Array
    judgements: tuple[Judgement, ...]
    load: Array | None = None

    @property
    def agreeing(self) -> int:
        """Images on which the server and PyTorch name the same class."""
        return int((self.served == self.pytorch).sum())

    @property
    def passed(self) -> bool:
        """Whether every label agrees and the outputs are within tolerance."""
        return self.agreeing == len(self.served) and all_passed(self.judgements)


@contextmanager
def serving(repository: Path, *options: str, until: str = LISTENING) -> Iterator[str]:
    """``twinport serve`` on a free port, until the block ends; gives its address.

    Args:
        repository: What is served.
        options: More of the command's.
        until: What a line of the server holds when the block may begin.

    Raises:
        Unavailable: The server ended before it listened; the text is its last line.
    """
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as state:
        command = [sys.executable, "-m", "runtime", str(repository), "--port", "0"]
        with subprocess.Popen(
            [*command, "--state", state, *options], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process:
            try:
                yield _address(process, log, until)
            finally:
                _stop(process)


def _address(process: subprocess.Popen[str], log: IO[str], until: str) -> str:
    assert process.stdout is not None
    address = ""
    for line in process.stdout:
        if LISTENING in line:
            address = line.split(LISTENING)[1].strip()
        if until in line:
            return address
    log.seek(0)
    said = log.read().strip().splitlines() or ["it said nothing"]
    raise Unavailable(f"the server did not start: {said[-1]}")


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def ask(url: str, name: str, source: Source, real: RealData) -> Answers:
    """Send real rows to a served model and compare the answers with PyTorch.

    Raises:
        Unavailable: The server is not ready in time.
    """
    outputs = [source.output_names[0], *([LOAD_OUTPUT] if source.experts else [])]
    served: dict[str, list[Array]] = {output: [] for output in outputs}
    with Client(url) as client:
        client.wait_ready(READY_SECONDS)
        for part in _requests(len(real)):
            rows = {key: np.ascontiguousarray(array[part]) for key, array in real.inputs.items()}
            # The load of experts is sent only where it is asked for by name.
            answer = client.infer(name, rows, outputs=outputs)
            for output in outputs:
                served[output].append(answer[output])
    return _compared(source, real, {name: np.concatenate(parts) for name, parts in served.items()})


def _compared(source: Source, real: RealData, served: dict[str, Array]) -> Answers:
    truth_of = Truth(source.module)
    truths = dict(zip(served, truth_of(real.inputs).values(), strict=True))
    torch32 = dict(zip(served, torch_float32(source.module)(real.inputs).values(), strict=True))
    stable = None if truth_of.margin is None else truth_of.margin > ROUTING_MARGIN
    judgements = []
    for output, given in served.items():
        pool = ErrorPool(rows=True, load=is_load(output))
        pool.add(given, truths[output], torch32[output], stable=stable)
        judgements.append(judge(pool, output, "served", extreme=False))
    output = source.output_names[0]
    classes = truths[output].argmax(-1)
    return Answers(
        served[output].argmax(-1),
        torch32[output].argmax(-1),
        classes if real.labels is None else real.labels,
        tuple(judgements),
        served[LOAD_OUTPUT].sum(0) if LOAD_OUTPUT in served else None,
    )


def _requests(rows: int) -> Iterator[slice]:
    singles = min(SINGLE_REQUESTS, rows)
    yield from (slice(row, row + 1) for row in range(singles))
    for start in range(singles, rows, ROWS_A_REQUEST):
        yield slice(start, min(start + ROWS_A_REQUEST, rows))


def first_rows(real: RealData, rows: int) -> RealData:
    """The same data, cut."""
    labels = None if real.labels is None else real.labels[:rows]
    inputs = {name: array[:rows] for name, array in real.inputs.items()}
    return RealData(real.name, inputs, labels, real.label_output)
