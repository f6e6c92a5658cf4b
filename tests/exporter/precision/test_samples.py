"""What is measured on is never what is judged on."""

from __future__ import annotations

import os

import numpy as np
import pytest
from torch import nn

from exporter.precision.samples import HELD, REAL_ROWS, calibration_inputs
from exporter.real import RealData, digit_data
from exporter.source import SourceRequest, load_source
from runtime.errors import InvalidInput


class Scorer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x)


@pytest.fixture
def source(source_of):
    return source_of(Scorer(), "x:float32[batch,4]")


def rows(calls, name="x"):
    return np.concatenate([call[name] for call in calls])


def own(count):
    return RealData("own.npz", {"x": np.arange(count * 4, dtype=np.float32).reshape(count, 4)},
                    np.arange(count), "output")  # fmt: skip


def test_of_the_users_samples_every_second_one_is_left_for_the_proof(source):
    found = calibration_inputs(source, None, own(100), True)
    measured, rest = rows((*found.real, *found.held)), found.rest
    assert len(measured) == len(rest) == 50
    assert not {tuple(row) for row in measured} & {tuple(row) for row in rest.inputs["x"]}
    assert rest.labels.tolist() == list(range(0, 100, 2))
    assert found.name == "every second sample of own.npz (50)"


def test_ranges_and_noise_are_measured_on_different_samples(source):
    found = calibration_inputs(source, None, own(100), True)
    assert not {tuple(r) for r in rows(found.real)} & {tuple(r) for r in rows(found.held)}
    assert len(rows(found.held)) == 50 // HELD


def test_many_samples_are_thinned_evenly(source):
    found = calibration_inputs(source, None, own(4 * REAL_ROWS), True)
    measured = rows((*found.real, *found.held))
    assert len(measured) == REAL_ROWS
    assert measured[:, 0].max() > 0.99 * 4 * 4 * REAL_ROWS


def test_one_sample_cannot_be_measured_and_judged_on(source):
    with pytest.raises(InvalidInput, match=r"own\.npz holds one sample"):
        calibration_inputs(source, None, own(1), True)


def test_without_real_inputs_there_are_drawn_ones_of_every_batch_size(source):
    found = calibration_inputs(source, None, None, False)
    assert (found.real, found.held, found.rest) == ((), (), None)
    assert {len(call["x"]) for call in found.drawn} == {1, 2, 7, 32}
    assert "drawn" in found.name


def test_no_call_is_larger_than_the_model_takes_or_smaller(source_of):
    source = source_of(Scorer(), "x:float32[batch,4]", ranges={"batch": (3, 8)})
    found = calibration_inputs(source, None, own(101), True)
    sizes = {len(call["x"]) for call in found.calls}
    assert min(sizes) >= 3
    assert max(sizes) <= 8


def test_bundled_digits_are_parted_into_training_and_test_images(monkeypatch, tmp_path):
    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    source = load_source(SourceRequest("lenet5"))
    found = calibration_inputs(source, None, digit_data(source), False)
    assert len(found.rest) == 360
    tests = {image.tobytes() for image in found.rest.inputs["image"]}
    assert not tests & {image.tobytes() for image in rows(found.real, "image")}


@pytest.mark.mnist
def test_mnist_is_measured_on_training_images_and_judged_on_all_test_images():
    if not os.environ.get("TWINPORT_DATA"):
        pytest.skip("TWINPORT_DATA names no folder with MNIST")
    source = load_source(SourceRequest("lenet5"))
    real = digit_data(source)
    found = calibration_inputs(source, None, real, False)
    assert found.rest is real
    assert found.name == "512 MNIST training images"
    tests = {image.tobytes() for image in real.inputs["image"]}
    assert not tests & {image.tobytes() for image in rows(found.real, "image")}
