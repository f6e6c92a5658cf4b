"""Whether requests may be joined: a batch must give the answers that its rows give alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from exporter.samples import Sample
from exporter.trio import Alone, Answers, Trio
from runtime.error_pool import ErrorPool
from runtime.errors import TwinportError
from runtime.precision import FULL, RULES, Rule
from runtime.proof import all_passed, is_load, judge
from runtime.proof_records import Judgement
from runtime.tensors import Array

ROWS_A_CALL = 7
"""Rows of a large batch that are run alone as well, spread over the batch."""


@dataclass(frozen=True)
class Joined:
    """Whether the model is batchable, and why."""

    batchable: bool
    reason: str


def check_joined(
    trio: Trio, samples: Iterable[Sample], axis: str, rule: Rule = RULES[FULL]
) -> Joined:
    """Compare the artifact on joined rows with the truth of each row alone.

    The yardstick is PyTorch's error on single rows too: a module that mixes its rows
    would otherwise excuse an artifact that does. A precision below fp32 is compared with
    the artifact's own answers to each row: its distance from the truth would hide what
    joining does.

    Args:
        trio: The three models.
        samples: Calls with more than one row along axis 0.
        axis: The axis's name, for the reason.
        rule: That of the artifact's precision.
    """
    pools: dict[str, ErrorPool] = {}
    sizes: list[int] = []
    for sample in samples:
        inputs = sample.arrays()
        rows = len(next(iter(inputs.values())))
        sizes.append(rows)
        try:
            together = trio.artifact_together(sample, inputs)
            for row in _spread(rows):
                alone = trio.run_alone(sample, inputs, row)
                if rule.snr_db is not None:
                    one = {name: array[row : row + 1] for name, array in inputs.items()}
                    alone = replace(alone, truth=_widened(trio.artifact_answers(one)))
                joined = {name: array[row : row + 1] for name, array in together.items()}
                _add_row(alone, joined, pools)
        except TwinportError as error:
            return Joined(False, f"rows cannot be run alone and together: {error}")
    if not pools:
        return Joined(False, f"axis '{axis}' has one size only, so nothing can be joined")
    judged = [judge(pool, name, "joined", extreme=False, rule=rule) for name, pool in pools.items()]
    rows_run = max(pool.samples for pool in pools.values())
    if not all_passed(judged):
        bad = next(item for item in judged if item.verdict != "passed")
        return Joined(False, f"joined requests give other answers: '{bad.output}': {bad.reason}")
    shown = ", ".join(map(str, sorted(set(sizes))))
    return Joined(
        True,
        f"joined requests gave the separate answers ({rows_run} rows in batches of {shown}, "
        f"{_distance(judged, rule)})",
    )


def _distance(judged: Sequence[Judgement], rule: Rule) -> str:
    if rule.snr_db is None:
        factor = max((item.rms_factor or 0.0) for item in judged)
        return f"{factor:.2f} x float32's own error"
    ratios = [item.snr_db for item in judged if item.snr_db is not None]
    return f"{min(ratios):.1f} dB" if ratios else "to the bit"


def _add_row(alone: Alone, joined: Mapping[str, Array], pools: dict[str, ErrorPool]) -> None:
    for name, answer in alone.truth.items():
        pool = pools.setdefault(name, ErrorPool(True, is_load(name)))
        pool.add(joined[name], answer, alone.torch32[name], stable=alone.stable)


def _widened(answers: Answers) -> Answers:
    """Floats in float64, in which errors are measured."""
    return {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array
        for name, array in answers.items()
    }


def _spread(rows: int) -> list[int]:
    return sorted(set(np.linspace(0, rows - 1, min(rows, ROWS_A_CALL)).astype(int).tolist()))
