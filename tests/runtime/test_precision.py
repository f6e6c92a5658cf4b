"""A precision below fp32 is judged by its noise, by the rule of its name and by no other."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.error_pool import ErrorPool, Scale
from runtime.errors import ManifestError
from runtime.golden import Case, Golden, Kept, replay
from runtime.precision import FULL, RULES, rule_of
from runtime.proof import judge, signal_to_noise_db, uncovered

TRUTH = np.random.RandomState(0).standard_normal((64, 10))
LOWER = [name for name in RULES if name != FULL]


def pooled(artifact, truth=TRUTH, **fields):
    pool = ErrorPool(rows=True, **fields)
    pool.add(np.asarray(artifact), np.asarray(truth), np.asarray(truth))
    return pool


def with_noise(ratio_db):
    """The truth, and noise of exactly this ratio."""
    raw = np.random.RandomState(1).standard_normal(TRUTH.shape)
    power = np.square(TRUTH).mean() / 10 ** (ratio_db / 10)
    return TRUTH + raw * np.sqrt(power / np.square(raw).mean())


def judged(pool, precision, kind="real", **given):
    extreme = kind in ("zeros", "constant", "large")
    return judge(pool, "y", kind, extreme=extreme, rule=RULES[precision], **given)


def test_every_rule_stands_under_its_name_and_has_a_reason():
    assert all(name == rule.precision and rule.reason for name, rule in RULES.items())
    assert RULES[FULL].snr_db is None
    assert [rule_of(name).snr_db for name in LOWER] == [40.0, 22.0, 20.0]


def test_a_precision_without_a_rule_is_refused_by_name():
    with pytest.raises(ManifestError, match=r"'int4' has no rule .*fp32, fp16, bf16, int8"):
        rule_of("int4")


@pytest.mark.parametrize("precision", LOWER)
@pytest.mark.parametrize(("above", "passes"), [(0.1, True), (-0.1, False)])
def test_the_ratio_decides(precision, above, passes):
    least = RULES[precision].snr_db
    result = judged(pooled(with_noise(least + above)), precision)
    assert result.snr_db == pytest.approx(least + above)
    assert result.snr_limit_db == least
    assert (result.verdict == "passed") is passes
    assert passes or f"at least {least:g} dB" in result.reason


def test_noise_that_a_lower_precision_may_have_fails_in_full_precision():
    assert judged(pooled(with_noise(60)), "fp16").verdict == "passed"
    assert judged(pooled(with_noise(60)), FULL).verdict == "failed"


def test_int8_is_judged_on_real_inputs_and_shown_on_others():
    for kind in ("random", "zeros", "large"):
        result = judged(pooled(with_noise(3)), "int8", kind)
        assert (result.verdict, result.snr_limit_db) == ("passed", None)
        assert result.snr_db == pytest.approx(3)
    assert judged(pooled(with_noise(3)), "int8", "real").verdict == "failed"


@pytest.mark.parametrize("precision", LOWER)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_fails_on_ordinary_inputs(precision, bad):
    artifact = TRUTH.copy()
    artifact[3, 4] = bad
    assert judged(pooled(artifact), precision).verdict == "failed"
    assert judged(pooled(artifact), precision, "random").verdict == "failed"


def test_only_a_precision_that_ends_early_may_overflow_on_large_inputs():
    artifact = TRUTH.copy()
    artifact[3, 4] = np.inf
    verdicts = {name: judged(pooled(artifact), name, "large").verdict for name in RULES}
    assert verdicts == {"fp32": "failed", "fp16": "passed", "bf16": "failed", "int8": "passed"}


def test_without_noise_there_is_no_number_and_the_verdict_is_passed():
    result = judged(pooled(TRUTH), "fp16")
    assert (result.verdict, result.snr_db, result.relative_rms) == ("passed", None, 0.0)


def test_noise_on_a_truth_of_zeros_fails():
    zeros = np.zeros_like(TRUTH)
    assert judged(pooled(zeros + 1e-9, zeros), "fp16").verdict == "failed"
    assert signal_to_noise_db(0.0, 1e-9) == float("-inf")


def test_an_output_that_never_varies_proves_nothing_in_any_precision():
    same = np.ones_like(TRUTH)
    assert judged(pooled(same, same), "int8", may_be_constant=False).verdict == "vacuous"


def test_whole_numbers_may_differ_as_labels_may():
    right = np.arange(2000).reshape(-1, 1) % 10
    wrong = right.copy()
    wrong[:2] += 1
    assert judged(pooled(wrong, right), "fp16").verdict == "passed"
    assert judged(pooled(wrong, right), FULL).verdict == "failed"
    wrong[:3] += 1
    assert judged(pooled(wrong, right), "fp16").verdict == "failed"


def test_the_load_of_the_experts_may_not_differ_where_it_is_judged():
    right = np.full((8, 2, 4), 3)
    wrong = right.copy()
    wrong[0, 0] += np.array([1, -1, 0, 0])
    assert judged(pooled(wrong, right, load=True), "fp16").verdict == "failed"
    assert judged(pooled(wrong, right, load=True), "int8", "random").verdict == "passed"


def test_one_label_may_differ_in_a_small_data_set_and_the_share_in_a_large_one():
    rule = RULES["int8"]
    assert rule.fewest_agreeing(360) == 359
    assert rule.fewest_agreeing(10_000) == 9_980
    assert RULES["fp16"].fewest_agreeing(10_000) == 9_990


def test_evidence_without_the_inputs_that_count_covers_nothing():
    shown = [judged(pooled(with_noise(50)), "int8", "random")]
    assert "no real inputs for output 'y', and int8" in uncovered(["y"], shown, RULES["int8"])
    shown.append(judged(pooled(with_noise(50)), "int8", "real"))
    assert uncovered(["y"], shown, RULES["int8"]) == ""
    assert "says nothing of output 'z'" in uncovered(["z"], shown, RULES["int8"])


def test_a_replay_takes_the_rule_of_the_precision_and_the_evidence_cannot_loosen_it():
    kept = {"y": Kept(TRUTH, TRUTH.shape)}
    # Scales as large as can be: they excuse an artifact in fp32 and none in a lower precision.
    scales = {("y", "random"): Scale(1e9, 1e9)}
    golden = Golden(True, (Case("random", False, {"x": TRUTH}, kept),), scales)

    def answer(arrays):
        rows = [int(np.flatnonzero((row == TRUTH).all(1))[0]) for row in arrays["x"]]
        return {"y": with_noise(30)[rows]}

    verdicts = {
        precision: replay(golden, answer, precision=precision)[0].verdict
        for precision in ("fp32", "fp16", "bf16")
    }
    assert verdicts == {"fp32": "passed", "fp16": "failed", "bf16": "passed"}
