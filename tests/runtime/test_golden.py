"""The evidence survives the disk, and a replay finds what is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime.draws import Draw
from runtime.error_pool import Scale
from runtime.errors import RepositoryError
from runtime.golden import (
    Case,
    Drawn,
    Golden,
    Kept,
    drawn_from_draw,
    golden_to_bytes,
    kept_sample,
    read_golden,
    replay,
)

WEIGHT = np.linspace(-1, 1, 12).reshape(4, 3)


def linear(x, weight=WEIGHT):
    return {"y": (x["x"].astype(np.float32) @ weight.astype(np.float32))}


def evidence(rows: int = 12) -> Golden:
    drawn = drawn_from_draw(Draw("normal", 7, (rows, 4)))
    truth = drawn.array().astype(np.float64) @ WEIGHT
    zeros = np.zeros((1, 4), np.float32)
    return Golden(
        batchable=True,
        cases=(
            Case("random", False, {"x": drawn}, {"y": Kept(truth, truth.shape)}),
            Case("zeros", True, {"x": zeros}, {"y": Kept(np.zeros((1, 3)), (1, 3))}),
        ),
        scales={("y", "random"): Scale(2e-8, 1e-7)},
    )


def written(golden: Golden, folder: Path) -> Path:
    path = folder / "golden.safetensors"
    path.write_bytes(golden_to_bytes(golden))
    return path


def test_evidence_survives_the_disk(tmp_path):
    golden = evidence()
    back = read_golden(written(golden, tmp_path))
    assert back.scales == golden.scales
    assert back.batchable
    assert back.samples() == 13
    for before, after in zip(golden.cases, back.cases, strict=True):
        np.testing.assert_array_equal(before.arrays()["x"], after.arrays()["x"])
        np.testing.assert_array_equal(before.truth["y"].values, after.truth["y"].values)


def test_the_same_evidence_gives_the_same_bytes():
    assert golden_to_bytes(evidence()) == golden_to_bytes(evidence())


def test_a_correct_artifact_passes_its_replay(tmp_path):
    judgements = replay(read_golden(written(evidence(), tmp_path)), linear)
    assert [item.verdict for item in judgements] == ["passed", "passed"]
    assert judgements[0].samples == 12


def test_one_weight_off_by_one_percent_fails_the_replay():
    wrong = WEIGHT.copy()
    wrong[0, 0] *= 1.01
    judgements = replay(evidence(), lambda x: linear(x, wrong))
    assert judgements[0].verdict == "failed"
    assert "RMS" in judgements[0].reason


def test_an_artifact_that_mixes_the_rows_of_a_batch_fails_the_replay():
    def mixing(x):
        answer = linear(x)["y"]
        return {"y": answer[::-1] if len(answer) > 1 else answer}

    assert replay(evidence(), mixing)[0].verdict == "failed"


def test_batches_of_several_sizes_are_sent_and_none_above_the_maximum():
    sizes: list[int] = []

    def noting(x):
        sizes.append(len(x["x"]))
        return linear(x)

    replay(evidence(30), noting)
    assert sizes == [1, 2, 7, 20, 1]
    sizes.clear()
    replay(evidence(30), noting, max_batch_size=4)
    assert max(sizes) == 4
    assert sum(sizes) == 31


def test_a_model_that_joins_no_requests_is_run_as_it_was_proved():
    golden = evidence()
    sizes: list[int] = []
    alone = Golden(False, golden.cases, golden.scales)
    replay(alone, lambda x: (sizes.append(len(x["x"])), linear(x))[1])
    assert sizes == [12, 1]


def test_a_large_truth_is_kept_at_seeded_positions():
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((5, 40, 50))
    kept = kept_sample(truth, 5, seed=3, count=64)
    assert kept.values.shape == (5, 64)
    np.testing.assert_array_equal(kept.of(truth), kept.values)
    part = kept.rows(slice(1, 3))
    np.testing.assert_array_equal(part.of(truth[1:3]), kept.values[1:3])
    moved = truth[:, ::-1].copy()
    assert not np.array_equal(kept.of(moved), kept.values)


def test_an_answer_of_another_shape_fails_where_only_positions_are_kept():
    truth = np.ones((3, 10, 10))
    golden = Golden(
        True,
        (
            Case(
                "random",
                False,
                {"x": np.zeros((3, 4), np.float32)},
                {"y": kept_sample(truth, 3, seed=1, count=8)},
            ),
        ),
    )
    (judgement,) = replay(golden, lambda x: {"y": np.ones((len(x["x"]), 10))})
    assert judgement.verdict == "failed"
    assert "shape" in judgement.reason


def test_a_generator_that_moved_is_noticed():
    moved = Drawn(Draw("normal", 7, (2, 2)), crc32=1)
    with pytest.raises(RepositoryError, match="seed 7 draws other numbers"):
        moved.array()


@pytest.mark.parametrize("generator", ["normal", "uniform", "large", "constant", "integers"])
def test_every_generator_draws_the_same_twice_and_survives_the_disk(generator, tmp_path):
    dtype = "int64" if generator == "integers" else "float32"
    drawn = drawn_from_draw(Draw(generator, 5, (6, 3), dtype, -2, 9))
    golden = Golden(False, (Case("k", False, {"x": drawn}, {"y": Kept(np.ones(1), (1,))}),))
    back = read_golden(written(golden, tmp_path)).cases[0].arrays()["x"]
    np.testing.assert_array_equal(back, drawn.array())
    assert back.dtype == dtype


def test_large_inputs_are_large_and_integers_stay_in_their_range():
    assert np.abs(Draw("large", 0, (50, 50)).array()).min() >= 1e3
    numbers = Draw("integers", 0, (1000,), "int64", 3, 6).array()
    assert set(numbers.tolist()) == {3, 4, 5}


@pytest.mark.parametrize("damage", ["cut", "other", "missing"])
def test_damaged_evidence_is_one_clear_error(damage, tmp_path):
    path = written(evidence(), tmp_path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "other":
        path.write_bytes(b"not a safetensors file")
    else:
        path.unlink()
    with pytest.raises(RepositoryError, match="no evidence that can be read"):
        read_golden(path)


def test_an_answer_without_the_output_is_an_error():
    with pytest.raises(RepositoryError, match="no output 'y'"):
        replay(evidence(), lambda x: {"z": x["x"]})
