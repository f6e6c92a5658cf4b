"""Comparisons of single requests: what counts, what is excused, what a client can do."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from runtime.golden import Case, Golden, Kept
from runtime.manifest import LOAD_OUTPUT
from runtime.shadow.comparison import compare, is_extreme
from runtime.shadow.yardstick import Ground, InputSize, Yardstick, ground_from_golden

SIZE = {"x": InputSize(4.0, 1.0)}
WEIGHT = np.random.RandomState(0).standard_normal((64, 8)).astype(np.float32)
GROUND = Ground(True, {"y": Yardstick(4e-6, 5e-7, 4.5)}, SIZE)


def rows(count=2, size=1.0, seed=1):
    values = np.random.RandomState(seed).standard_normal((count, 64)) * size
    return {"x": np.clip(values, -8, 8).astype(np.float32)}


def model(inputs):
    return {"y": inputs["x"] @ WEIGHT}


def compared(inputs, answers, reference=model, ground=GROUND):
    return compare(inputs, answers, reference, ground, np.random.default_rng(0))


def rms_of(comparison, output="y"):
    item = comparison.outputs[output]
    return np.sqrt(item.squares / item.elements)


def test_equal_answers_do_not_differ():
    inputs = rows()
    found = compared(inputs, model(inputs))
    assert not found.extreme
    assert found.rows == 2
    assert rms_of(found) == 0
    assert found.outputs["y"].elements == 16


def test_rounding_is_below_the_limit_and_a_factor_is_far_beyond():
    inputs = rows(64)
    other = (inputs["x"].astype(np.float64) @ WEIGHT.astype(np.float64)).astype(np.float32)
    assert rms_of(compared(inputs, {"y": other})) < 1
    assert rms_of(compared(inputs, {"y": other * np.float32(1.0001)})) > 50


def test_one_weight_off_by_a_percent_is_found():
    wrong = WEIGHT.copy()
    wrong[5, 3] *= 1.01
    inputs = rows(64)
    assert rms_of(compared(inputs, {"y": inputs["x"] @ wrong})) > 20


def test_answers_larger_than_the_evidence_may_be_off_by_as_much_more():
    aligned = {"x": (8 * np.sign(WEIGHT[:, :1].T)).astype(np.float32)}
    other = (aligned["x"].astype(np.float64) @ WEIGHT.astype(np.float64)).astype(np.float32)
    assert rms_of(compared(aligned, {"y": other})) < 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 8.1])
def test_inputs_beyond_the_evidence_never_count(value):
    inputs = rows()
    inputs["x"][1, 7] = value
    with np.errstate(all="ignore"):
        found = compared(inputs, model(inputs))
    assert found.extreme
    assert not found.differs
    assert found.outputs == {}


def test_a_signalling_nan_is_extreme_without_a_warning():
    inputs = rows()
    inputs["x"].view(np.uint32)[1, 7] = 0x7F800001
    assert is_extreme(inputs, GROUND)


def test_extreme_inputs_are_noted_where_patterns_or_sizes_differ():
    inputs = {"x": np.full((1, 64), 1e6, np.float32)}
    right = model(inputs)["y"]
    assert not compared(inputs, {"y": right * np.float32(1.00005)}).differs
    assert compared(inputs, {"y": right * np.float32(1.0002)}).differs
    assert compared(inputs, {"y": np.where(right > 0, np.nan, right)}).differs


def test_not_a_number_where_the_reference_has_one_differs():
    inputs = rows()
    answer = model(inputs)["y"]
    answer[1, 2] = np.nan
    item = compared(inputs, {"y": answer}).outputs["y"]
    assert (item.differing, item.rows) == (1, 2)


def test_the_same_not_a_number_on_both_sides_is_equal():
    def always(inputs):
        y = model(inputs)["y"]
        y[:, 2] = np.nan
        return {"y": y}

    item = compared(rows(), always(rows()), always).outputs["y"]
    assert (item.differing, item.elements, item.squares) == (0, 14, 0)


def test_another_shape_differs_in_every_row():
    inputs = rows()
    assert compared(inputs, {"y": model(inputs)["y"][:, :7]}).outputs["y"].differing == 2


def normed(order):
    """A norm over the row, which amplifies rounding where the row is constant."""

    def run(inputs):
        x = inputs["x"][:, order]
        mean = np.add.accumulate(x, axis=1)[:, -1:] / np.float32(64)
        var = np.add.accumulate(np.square(x - mean), axis=1)[:, -1:] / np.float32(64)
        return {"y": ((inputs["x"] - mean) / np.sqrt(var + np.float32(1e-18)))[:, :8]}

    return run


def test_what_amplifies_rounding_is_nobodys_fault():
    one, other = normed(np.arange(64)), normed(np.random.RandomState(0).permutation(64))
    # All but constant, so that sums in another order round apart.
    inputs = {"x": (1.1 + 2e-7 * rows(4)["x"]).astype(np.float32)}
    answers = other(inputs)
    off = np.abs(answers["y"] - one(inputs)["y"]).max()
    assert off > 1e3 * GROUND.outputs["y"].scale
    assert rms_of(compared(inputs, answers, one)) < 4


def labels_of(inputs):
    return {"label": (inputs["x"] @ WEIGHT).argmax(1)}


def test_whole_numbers_are_compared_exactly():
    inputs = rows(8)
    wrong = labels_of(inputs)["label"]
    wrong[3] += 1
    item = compared(inputs, {"label": wrong}, labels_of).outputs["label"]
    assert (item.differing, item.rows, item.elements) == (1, 8, 0)


def tied(count=4):
    """Rows whose two largest logits are equal but for rounding."""
    x = np.random.RandomState(3).standard_normal((count, 64))
    y = x @ WEIGHT.astype(np.float64)
    best = np.argsort(y, 1)
    for row in range(count):
        first, second = best[row, -1], best[row, -2]
        between = WEIGHT[:, first].astype(np.float64) - WEIGHT[:, second]
        x[row] -= between * (between @ x[row]) / (between @ between)
    return {"x": x.astype(np.float32)}


def test_a_label_that_is_a_near_tie_is_excused():
    inputs = tied()
    y = np.sort(inputs["x"] @ WEIGHT, 1)
    chosen = (inputs["x"] @ WEIGHT).argsort(1)
    assert (y[:, -1] - y[:, -2] < 1e-5).any()
    near = y[:, -1] - y[:, -2] < 1e-5
    other = np.where(near, chosen[:, -2], chosen[:, -1])
    item = compared(inputs, {"label": other}, labels_of).outputs["label"]
    assert item.differing == 0


def routed(inputs, second=()):
    """Each row goes to the expert with the largest logit; those in ``second`` to the next."""
    logits = inputs["x"] @ WEIGHT
    place = np.full(len(logits), -1)
    place[list(second)] = -2
    expert = logits.argsort(1)[np.arange(len(logits)), place]
    load = np.eye(8, dtype=np.int32)[expert][:, None]
    return {"y": logits * (1 + expert[:, None]).astype(np.float32), LOAD_OUTPUT: load}


def test_rows_of_other_experts_do_not_count_and_are_told_from_near_ties():
    inputs = rows(6)
    ties = tied(1)
    inputs["x"] = np.concatenate([inputs["x"], ties["x"]])
    found = compared(inputs, routed(inputs, second=(2, 6)), routed)
    assert (found.rows, found.rerouted, found.near_ties) == (7, 1, 1)
    assert rms_of(found) == 0
    assert found.outputs["y"].rows == 5
    assert LOAD_OUTPUT not in found.outputs


def test_a_model_that_cannot_be_batched_is_one_sample():
    ground = Ground(False, GROUND.outputs, SIZE)
    inputs = rows(5)
    found = compared(inputs, model(inputs), ground=ground)
    assert found.rows == 1
    assert found.outputs["y"].elements == 40


def test_text_is_compared_exactly():
    def same(inputs):
        return {"same": inputs["text"]}

    inputs = {"text": np.array([b"a", b"b"], dtype=object)}
    ground = Ground(False, {}, {})
    wrong = {"same": np.array([b"a", b"c"], dtype=object)}
    assert compared(inputs, same(inputs), same, ground).outputs["same"].differing == 0
    assert compared(inputs, wrong, same, ground).outputs["same"].differing == 1


def judgement(kind, scale, error, extreme=False):
    return SimpleNamespace(output="y", kind=kind, extreme=extreme, rms_scale=scale, rms_error=error)


def test_the_yardstick_is_the_largest_of_the_ordinary_kinds():
    cases = [
        Case("random", False, {"x": np.array([[1.0, -3.0]], np.float32)},
             {"y": Kept(np.array([[2.0]]), (1, 1))}),
        Case("real", False, {"x": np.array([[0.5, 0.5]], np.float32)},
             {"y": Kept(np.array([[1.0]]), (1, 1))}),
        Case("large", True, {"x": np.array([[1e4, 1.0]], np.float32)},
             {"y": Kept(np.array([[1e4]]), (1, 1))}),
    ]  # fmt: skip
    judged = [judgement("random", 2e-6, 1e-6), judgement("real", 1e-6, 1e-6)]
    ground = ground_from_golden(
        Golden(True, tuple(cases)), [*judged, judgement("large", 1.0, 0.0, extreme=True)]
    )
    assert ground.outputs == {"y": Yardstick(2e-6, 1e-6, 4.5)}
    assert ground.inputs["x"].largest == 3
    assert ground.inputs["x"].rms == pytest.approx(np.sqrt(10.5 / 4))
