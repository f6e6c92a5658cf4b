"""Choose what of a proof's samples is kept with the artifact, within four megabytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from exporter.samples import Sample
from exporter.trio import Answered, Pools
from runtime.golden import (
    SIZE_LIMIT_BYTES,
    Case,
    Drawn,
    Golden,
    Kept,
    drawn_from_draw,
    golden_to_bytes,
    kept_sample,
)
from runtime.proof import truth_with_overflow
from runtime.tensors import Array

REAL_ROWS = 32
RANDOM_ROWS = 16
ROWS_WITHOUT_REAL = 48
_VALUES_A_SAMPLE = 1024
_POSITIONS_SEED = 20240229


def evidence_from_samples(answered: Sequence[Answered], pools: Pools, batchable: bool) -> Golden:
    """Pick 32 to 64 samples: real and random ones, and all extreme ones.

    Real inputs are kept as numbers, as many as fit; synthetic ones by seed. A large
    truth is kept at seeded positions.
    """
    by_kind = {kind: [a for a in answered if a.sample.kind == kind] for kind in pools.extremes}
    real_rows = REAL_ROWS
    while True:
        cases = _cases(by_kind, real_rows, pools, batchable)
        golden = Golden(batchable, tuple(cases), pools.scales())
        if len(golden_to_bytes(golden)) <= SIZE_LIMIT_BYTES or real_rows == 0:
            return golden
        real_rows //= 2


def _cases(
    by_kind: dict[str, list[Answered]], real_rows: int, pools: Pools, batchable: bool
) -> list[Case]:
    real = by_kind.get("real", [])[: None if real_rows else 0]
    quotas = {"real": real_rows, "random": RANDOM_ROWS if real else ROWS_WITHOUT_REAL}
    cases: list[Case] = []
    for kind, answers in by_kind.items():
        if kind == "real" and not real:
            continue
        chosen = _smallest_first(answers) if kind == "random" else answers
        left = quotas.get(kind, 64)
        for turn, item in enumerate(chosen):
            # Each call gives a part, so that every size of the free axes stays in.
            share = -(-left // (len(chosen) - turn)) if kind == "random" else left
            if share <= 0:
                break
            case = _case(item, share, pools, batchable)
            cases.append(case)
            left -= case.rows() if batchable else 1
    return cases


def _smallest_first(answers: list[Answered]) -> list[Answered]:
    """What a small batch leaves of its share, the larger ones after it can give."""
    return sorted(answers, key=lambda item: _rows(item.sample))


def _rows(sample: Sample) -> int:
    shapes = [array.shape for array in sample.arrays().values()]
    return shapes[0][0] if shapes and shapes[0] else 1


def _case(item: Answered, limit: int, pools: Pools, batchable: bool) -> Case:
    sample = item.sample
    rows = min(limit, _rows(sample)) if batchable else _rows(sample)
    inputs = {
        name: _first_rows(value, rows) if batchable else value
        for name, value in sample.inputs.items()
    }
    truth = {
        name: _kept(_expected(item, name)[:rows] if batchable else _expected(item, name),
                    rows if batchable else 1, len(item.truth))
        for name in item.truth
    }  # fmt: skip
    return Case(sample.kind, pools.extremes[sample.kind], inputs, truth)


def _expected(item: Answered, name: str) -> Array:
    truth = item.truth[name]
    if truth.dtype.kind != "f":
        return truth
    return truth_with_overflow(truth, item.torch32[name])


def _first_rows(value: Array | Drawn, rows: int) -> Array | Drawn:
    """The first rows; a sequential draw of fewer rows begins with the same numbers."""
    if not isinstance(value, Drawn):
        return np.ascontiguousarray(value[:rows])
    if value.draw.shape[0] == rows:
        return value
    shorter = drawn_from_draw(replace(value.draw, shape=(rows, *value.draw.shape[1:])))
    same = np.array_equal(shorter.array(), value.array()[:rows])
    return shorter if same else np.ascontiguousarray(value.array()[:rows])


def _kept(truth: Array, samples: int, outputs: int) -> Kept:
    limit = max(16, 4 * _VALUES_A_SAMPLE // max(4, outputs))
    if truth.size <= limit * samples or truth.size == 0:
        return Kept(np.ascontiguousarray(truth), truth.shape)
    return kept_sample(truth, samples, _POSITIONS_SEED, limit)
