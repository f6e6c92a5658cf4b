"""One call of a backend for the requests of a batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from runtime.batch_rows import Arrays, joined
from runtime.manifest import LOAD_OUTPUT
from runtime.queueing import Waiting
from runtime.tensors import Array
from runtime.worker import Worker

Run: TypeAlias = Callable[[Arrays, Sequence[str]], dict[str, Array]]


@dataclass
class Lane:
    """One instance of a model.

    Attributes:
        run: One call: inputs by name and names of outputs to outputs by name.
        worker: Where its calls run, one after the other.
        calls: Those that its thread has and has not ended.
    """

    run: Run
    worker: Worker
    calls: int = 0


class Computed(NamedTuple):
    """What one call gave, and nanoseconds: joining, the backend, and when it was done.

    ``load`` is of experts, where it was to be counted.
    """

    answers: dict[str, Array]
    input_ns: int
    infer_ns: int
    done_ns: int
    load: Array | None


def compute(batch: Sequence[Waiting], run: Run, counts: bool) -> Computed:
    """One call for all requests of a batch, here; the load of experts too where it counts."""
    start = time.monotonic_ns()
    first = batch[0]
    if len(batch) == 1:
        arrays, names = first.arrays, first.outputs
    else:
        arrays = joined([item.arrays for item in batch])
        names = list(dict.fromkeys([name for item in batch for name in item.outputs]))
    ready = time.monotonic_ns()
    load = None
    if not counts:
        answers = run(arrays, names)
    elif LOAD_OUTPUT in names:
        answers = run(arrays, names)
        load = answers[LOAD_OUTPUT]
    else:
        answers = run(arrays, [*names, LOAD_OUTPUT])
        load = answers.pop(LOAD_OUTPUT)
    done = time.monotonic_ns()
    return Computed(answers, ready - start, done - ready, done, load)
