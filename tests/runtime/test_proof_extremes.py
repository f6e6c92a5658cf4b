"""On extreme inputs the tolerance widens only where float32 itself loses its digits."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.error_pool import FLOOR, ErrorPool
from runtime.golden import Case, Golden, Kept, golden_to_bytes, read_golden, replay
from runtime.proof import EXTREME_LIMIT, RMS_LIMIT, judge
from runtime.proof_records import Judgement

TRUTH = np.random.RandomState(0).standard_normal((64, 10))
SIZE = float(np.sqrt((TRUTH**2).mean()))


def shifted(relative: float):
    """The truth with an error of exactly this relative RMS."""
    return TRUTH + relative * SIZE


def judged(artifact: float, torch32: float, moved: float | None) -> Judgement:
    pool = ErrorPool(rows=True)
    pool.add(shifted(artifact), TRUTH, shifted(torch32), None if moved is None else shifted(moved))
    return judge(pool, "y", "constant", extreme=True)


@pytest.mark.parametrize(("error", "verdict"), [(0.9, "passed"), (1.1, "failed")])
def test_where_float32_loses_digits_the_truths_movement_is_the_tolerance(error, verdict):
    moved = 1e-3
    result = judged(error * RMS_LIMIT * moved, 10 * FLOOR, moved)
    assert result.verdict == verdict
    assert result.relative_limit == pytest.approx(RMS_LIMIT * moved)


@pytest.mark.parametrize("torch32", [0.0, 0.9 * FLOOR])
def test_where_float32_is_right_the_truths_movement_excuses_nothing(torch32):
    result = judged(1.1 * EXTREME_LIMIT, torch32, 1.0)
    assert result.verdict == "failed"
    assert result.relative_limit == pytest.approx(EXTREME_LIMIT)


def test_a_truth_that_stands_still_keeps_the_limit():
    assert judged(1.1 * EXTREME_LIMIT, 10 * FLOOR, 0.0).verdict == "failed"
    assert judged(0.9 * EXTREME_LIMIT, 10 * FLOOR, 0.0).verdict == "passed"


@pytest.mark.parametrize("torch32", [0.0, 1e-9])
def test_a_truth_of_zeros_is_held_to_its_movement(torch32):
    zeros = np.zeros((4, 3))
    for error, verdict in ((3e-6, "passed"), (5e-6, "failed")):
        pool = ErrorPool(rows=True)
        pool.add(zeros + error, zeros, zeros + torch32, zeros + 1e-6)
        assert judge(pool, "y", "constant", extreme=True).verdict == verdict


def test_the_movement_excuses_nothing_on_ordinary_inputs():
    pool = ErrorPool(rows=True)
    pool.add(shifted(1e-3), TRUTH, shifted(1e-6), shifted(1.0))
    result = judge(pool, "y", "random", extreme=False)
    assert result.verdict == "failed"
    assert result.relative_limit is None


def test_the_evidence_keeps_the_movement(tmp_path):
    pool = ErrorPool(rows=True)
    pool.add(TRUTH, TRUTH, shifted(10 * FLOOR), shifted(1e-3))
    case = Case("constant", True, {"x": TRUTH}, {"y": Kept(TRUTH, TRUTH.shape)})
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_to_bytes(Golden(True, (case,), {("y", "constant"): pool.scale()})))
    for error, verdict in ((3e-3, "passed"), (5e-3, "failed")):
        wrong = error * SIZE
        (item,) = replay(read_golden(path), lambda inputs, wrong=wrong: {"y": inputs["x"] + wrong})
        assert item.verdict == verdict
