"""Whether requests may be joined: a batch must give the answers that its rows give alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from exporter.samples import Sample
from exporter.trio import Trio
from runtime.errors import TwinportError
from runtime.proof import ErrorPool, all_passed, is_load, judge
from runtime.tensors import Array

ROWS_A_CALL = 7
"""Rows of a large batch that are run alone as well, spread over the batch."""


@dataclass(frozen=True)
class Joined:
    """Whether the model is batchable, and why."""

    batchable: bool
    reason: str


def check_joined(trio: Trio, samples: Iterable[Sample], axis: str) -> Joined:
    """Compare the artifact on joined rows with the truth of each row alone.

    The yardstick is PyTorch's error on single rows too: a module that mixes its rows
    would otherwise excuse an artifact that does.

    Args:
        trio: The three models.
        samples: Calls with more than one row along axis 0.
        axis: The axis's name, for the reason.
    """
    pools: dict[str, ErrorPool] = {}
    sizes: list[int] = []
    for sample in samples:
        inputs = sample.arrays()
        rows = len(next(iter(inputs.values())))
        sizes.append(rows)
        try:
            together = trio.artifact_answers(inputs)
            for row in _spread(rows):
                _add_row(trio, sample, {k: v[row : row + 1] for k, v in inputs.items()},
                         {k: v[row : row + 1] for k, v in together.items()}, pools)  # fmt: skip
        except TwinportError as error:
            return Joined(False, f"rows cannot be run alone and together: {error}")
    if not pools:
        return Joined(False, f"axis '{axis}' has one size only, so nothing can be joined")
    judged = [judge(pool, name, "joined", extreme=False) for name, pool in pools.items()]
    rows_run = max(pool.samples for pool in pools.values())
    if not all_passed(judged):
        bad = next(item for item in judged if item.verdict != "passed")
        return Joined(False, f"joined requests give other answers: '{bad.output}': {bad.reason}")
    factor = max((item.rms_factor or 0.0) for item in judged)
    shown = ", ".join(map(str, sorted(set(sizes))))
    return Joined(
        True,
        f"joined requests gave the separate answers ({rows_run} rows in batches of {shown}, "
        f"{factor:.2f} x float32's own error)",
    )


def _add_row(
    trio: Trio,
    sample: Sample,
    alone: dict[str, Array],
    joined: dict[str, Array],
    pools: dict[str, ErrorPool],
) -> None:
    truth, torch32 = trio.module_answers(alone, sample)
    stable = trio.stable()
    for name, answer in truth.items():
        pool = pools.setdefault(name, ErrorPool(True, is_load(name)))
        pool.add(joined[name], answer, torch32[name], stable=stable)


def _spread(rows: int) -> list[int]:
    return sorted(set(np.linspace(0, rows - 1, min(rows, ROWS_A_CALL)).astype(int).tolist()))
