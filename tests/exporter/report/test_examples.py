"""Samples beside each other: the truth's answer and the artifact's."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from exporter.report.examples import SHOWN, examples_from
from exporter.report.here import Here, run_here
from exporter.report.pictures import looks_like_image, picture_address
from runtime.backends.base import BackendOptions
from runtime.golden import Case, Golden, Kept, kept_sample, read_golden
from runtime.manifest import Preprocessing


@pytest.fixture(scope="module")
def golden(lenet):
    return read_golden(lenet.folder / "golden.safetensors")


@pytest.fixture(scope="module")
def here(lenet, golden):
    return run_here(lenet.folder, lenet.manifest, golden, BackendOptions())


def test_the_artifact_names_the_truths_class_on_every_real_sample(lenet, golden, here):
    found = examples_from(golden, lenet.manifest, here)
    assert (found.kind, found.total, found.differing, found.labelled) == ("real", 32, 0, True)
    assert len(found.shown) == SHOWN
    real = [case.truth["logits"].values for case in golden.cases if case.kind == "real"]
    best = np.concatenate(real).argmax(1)[:SHOWN]
    assert [item.truth.label for item in found.shown] == [str(index) for index in best]
    assert found.not_run == ""


def test_samples_that_differ_come_first_and_are_counted(lenet, golden, here):
    wrong = [dict(answer) for answer in here.answers]
    rows = [case.rows() for case in golden.cases if case.kind == "real"]
    last = len(rows) - 1
    wrong[last]["logits"] = wrong[last]["logits"].copy()
    wrong[last]["logits"][-1] *= -1
    found = examples_from(golden, lenet.manifest, replace(here, answers=tuple(wrong)))
    assert found.differing == 1
    assert found.shown[0].place == sum(rows) == 32
    assert found.shown[0].differs
    assert found.shown[0].truth.label != found.shown[0].artifact.label
    assert not found.shown[1].differs


def test_answers_that_are_not_finite_name_no_class(lenet, golden, here):
    broken = [{"logits": np.full_like(answer["logits"], np.nan)} for answer in here.answers]
    found = examples_from(golden, lenet.manifest, replace(here, answers=tuple(broken)))
    assert found.differing == 32
    assert found.shown[0].artifact.score == "values that are not finite"


def test_without_the_artifact_the_truth_stands_alone(lenet, golden):
    found = examples_from(golden, lenet.manifest, Here(reason="there is no GPU"))
    assert found.not_run == "there is no GPU"
    assert found.shown[0].artifact is None
    assert found.differing == 0


def test_values_are_compared_where_there_are_no_labels(lenet, golden, here):
    manifest = replace(lenet.manifest, labels=None)
    found = examples_from(golden, manifest, here)
    assert not found.labelled
    (output,) = found.shown[0].outputs
    assert output.output == "logits"
    assert output.truth.endswith("… [1, 10]")
    assert float(output.difference) < 1e-4


def test_a_truth_kept_in_part_names_no_class(lenet):
    logits = np.arange(20.0).reshape(2, 10)
    case = Case("real", False, {"x": np.zeros((2, 3))}, {"logits": kept_sample(logits, 2, 1, 4)})
    answers = ({"logits": logits.astype(np.float32)},)
    found = examples_from(Golden(True, (case,)), lenet.manifest, Here(answers=answers))
    assert not found.labelled
    assert found.shown[1].outputs[0].difference == "0"


def test_a_call_is_one_sample_where_requests_are_not_joined(lenet):
    case = Case("random", False, {"n": np.array(3)}, {"y": Kept(np.array([1, 2]), (2,))})
    other = ({"y": np.array([1, 2, 3])},)
    found = examples_from(Golden(False, (case,)), lenet.manifest, Here(answers=other))
    assert (found.kind, found.total) == ("random", 1)
    assert found.shown[0].inputs == ("n: 3",)
    assert found.shown[0].outputs[0].difference == "another shape"


def test_a_near_tie_of_experts_is_marked(lenet, golden, here):
    first, *others = golden.cases
    cases = (replace(first, stable=(False,) * first.rows()), *others)
    found = examples_from(replace(golden, cases=cases), lenet.manifest, here)
    assert not found.shown[0].stable
    assert found.shown[-1].stable


def decoded(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_pixels_are_put_back_as_the_model_prepared_them():
    prepared = Preprocessing("x", "gray", 4, 4, (0.5,), (0.25,))
    pixels = np.linspace(0, 255, 16).round().reshape(1, 4, 4)
    picture = decoded(picture_address((pixels / 255 - 0.5) / 0.25, prepared))
    np.testing.assert_array_equal(np.asarray(picture), pixels[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_that_the_artifact_prepares_are_drawn_as_they_are(channels):
    pixels = np.random.RandomState(0).randint(0, 256, (1, 9, 7, channels)).astype(np.uint8)
    prepared = Preprocessing("x", "gray", 4, 4, (0.5,), (0.25,), done_by="artifact")
    assert looks_like_image(pixels)
    picture = decoded(picture_address(pixels, prepared))
    np.testing.assert_array_equal(np.asarray(picture).reshape(pixels.shape), pixels)
    channels_first = np.moveaxis(pixels, -1, 1)
    assert looks_like_image(channels_first)
    assert decoded(picture_address(channels_first, None)).size == (7, 9)


def test_pictures_without_preprocessing_are_stretched_and_large_ones_made_small():
    sample = np.random.RandomState(0).standard_normal((1, 3, 300, 200))
    sample[0, 0, 0, 0] = np.nan
    picture = decoded(picture_address(sample, None))
    assert (picture.mode, picture.size) == ("RGB", (64, 96))
    assert decoded(picture_address(np.zeros((1, 8, 8)), None)).size == (8, 8)
    other = Preprocessing("x", "rgb", 8, 8, (0.5, 0.5), (0.25, 0.25))
    assert decoded(picture_address(np.zeros((3, 8, 8)), other)).mode == "RGB"


@pytest.mark.parametrize(
    ("shape", "image"),
    [((1, 1, 32, 32), True), ((3, 8, 8), True), ((1, 4), False), ((2, 1, 32, 32), False),
     ((1, 5, 32, 32), False), ((1, 1, 2, 40), False), ((), False)],
)  # fmt: skip
def test_only_one_or_three_channels_with_height_and_width_are_a_picture(shape, image):
    assert looks_like_image(np.zeros(shape)) is image
