"""Choose what of a proof's samples is kept with the artifact, within four megabytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from exporter.samples import Sample, first_rows
from exporter.trio import Answered, Pools
from runtime.error_pool import truth_with_overflow
from runtime.golden import (
    SIZE_LIMIT_BYTES,
    Case,
    Golden,
    Kept,
    golden_to_bytes,
    kept_sample,
)
from runtime.tensors import Array

REAL_ROWS = 32
ORDINARY_ROWS = 48
"""Real and random ones together."""
EXTREME_ROWS = 5
"""Of each of the three extreme kinds; 63 samples in all."""
_VALUES_A_SAMPLE = 1024
_FEWEST_VALUES = 16
_POSITIONS_SEED = 20240229


def evidence_from_samples(answered: Sequence[Answered], pools: Pools, batchable: bool) -> Golden:
    """Pick 32 to 64 samples: real, random and extreme ones.

    Real inputs are kept as numbers, as many as fit; synthetic ones by seed. A large
    truth is kept at seeded positions.
    """
    by_kind = {kind: [a for a in answered if a.sample.kind == kind] for kind in pools.extremes}
    choice = _Choice(pools, batchable, REAL_ROWS, _VALUES_A_SAMPLE)
    while True:
        golden = Golden(batchable, tuple(_cases(by_kind, choice)), pools.scales())
        if len(golden_to_bytes(golden)) <= SIZE_LIMIT_BYTES:
            return golden
        smaller = choice.smaller()
        if smaller == choice:
            return golden
        choice = smaller


@dataclass(frozen=True)
class _Choice:
    """How much is kept."""

    pools: Pools
    batchable: bool
    real_rows: int
    values: int
    """Of the truth of one sample, over all outputs."""

    def smaller(self) -> _Choice:
        """Fewer real inputs, which weigh most; then fewer values of the truth."""
        if self.real_rows:
            return replace(self, real_rows=self.real_rows // 2)
        return replace(self, values=max(_FEWEST_VALUES, self.values // 2))


def _cases(by_kind: dict[str, list[Answered]], choice: _Choice) -> list[Case]:
    real = _kind_cases(by_kind.get("real", []), choice.real_rows, choice)
    left = ORDINARY_ROWS - sum(_samples(case, choice) for case in real)
    random = by_kind.get("random", [])
    if choice.batchable:
        # What a small batch leaves of its share, the larger ones after it can give.
        random = sorted(random, key=lambda item: _rows(item.sample))
    cases = [*real, *_kind_cases(random, left, choice)]
    for kind, answers in by_kind.items():
        if choice.pools.extremes[kind]:
            cases += _kind_cases(answers, EXTREME_ROWS, choice)
    return cases


def _kind_cases(answers: list[Answered], wanted: int, choice: _Choice) -> list[Case]:
    """``wanted`` samples; each call gives a part, so that every size of the axes stays in."""
    cases: list[Case] = []
    left = wanted
    for turn, item in enumerate(answers):
        share = -(-left // (len(answers) - turn))
        if share <= 0:
            break
        cases.append(_case(item, share, choice))
        left -= _samples(cases[-1], choice)
    return cases


def _samples(case: Case, choice: _Choice) -> int:
    return case.rows() if choice.batchable else 1


def _rows(sample: Sample) -> int:
    shapes = [array.shape for array in sample.arrays().values()]
    return shapes[0][0] if shapes and shapes[0] else 1


def _case(item: Answered, limit: int, choice: _Choice) -> Case:
    sample, values = item.sample, max(_FEWEST_VALUES, choice.values // len(item.truth))
    inputs, samples = dict(sample.inputs), 1
    truth = {name: _expected(item, name) for name in item.truth}
    if choice.batchable:
        samples = min(limit, _rows(sample))
        inputs = {name: first_rows(value, samples) for name, value in inputs.items()}
        truth = {name: array[:samples] for name, array in truth.items()}
    kept = {name: _kept(array, samples, values) for name, array in truth.items()}
    return Case(sample.kind, sample.extreme, inputs, kept, _flags(item, samples, choice))


def _flags(item: Answered, samples: int, choice: _Choice) -> tuple[bool, ...] | None:
    """Whether the rows that are kept route stably."""
    if item.stable is None:
        return None
    return tuple(item.stable[: samples if choice.batchable else None].tolist())


def _expected(item: Answered, name: str) -> Array:
    truth = item.truth[name]
    if truth.dtype.kind != "f":
        return truth
    return truth_with_overflow(truth, item.torch32[name])


def _kept(truth: Array, samples: int, values: int) -> Kept:
    if truth.size <= values * samples:
        return Kept(np.asarray(truth, order="C"), truth.shape)
    return kept_sample(truth, samples, _POSITIONS_SEED, values)
