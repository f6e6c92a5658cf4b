"""A label that differs is a fault, unless the truth itself holds the two classes for equal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from exporter.labels import check_labels
from exporter.real import RealData
from exporter.trio import Trio
from runtime.error_pool import Scale
from runtime.proof import MAX_LIMIT

SCALE = Scale(1e-6, 1e-5)
NEAR = 2 * MAX_LIMIT * SCALE.maximum


class Passed(nn.Module):
    """The rows are the logits."""

    def forward(self, x):
        return x


class Swapped(nn.Module):
    """Names class ``second`` wherever the truth names class 0."""

    def __init__(self, second):
        super().__init__()
        self.second = second

    def forward(self, x):
        y = x.clone()
        y[:, self.second] = torch.where(x.argmax(1) == 0, 99.0, y[:, self.second])
        return y


@pytest.fixture
def labels(source_of, backend_of):
    def check(rows, classes, artifact=None, batch=4):
        source = source_of(Passed(), "x:float32[batch,3]")
        trio = Trio(source, ["output"], backend_of(artifact or Passed(), ("output",)))
        array = np.asarray(rows, np.float32)
        real = RealData("rows", {"x": array}, np.asarray(classes), "output")
        return check_labels(trio, real, SCALE, batch)

    return check


CLEAR = [[3, 1, 0], [0, 3, 1], [0, 1, 3], [0, 0, 3], [3, 2, 1]]


def test_agreement_and_both_accuracies_are_counted_over_all_rows(labels):
    result = labels(CLEAR, [0, 1, 2, 2, 1])
    assert (result.samples, result.agreeing, result.excused) == (5, 5, 0)
    assert result.artifact_accuracy == result.torch_accuracy == 0.8
    assert (result.verdict, result.dataset) == ("passed", "rows")


def test_a_clear_disagreement_fails_whatever_the_accuracy(labels):
    result = labels(CLEAR, [1, 1, 2, 2, 1], Swapped(1))
    assert result.agreeing == 3
    assert result.artifact_accuracy > result.torch_accuracy
    assert result.verdict == "failed"


def test_a_tie_within_the_tolerance_is_excused_and_counted(labels):
    rows = [[1, 1 - NEAR * 0.9, 0], [0, 3, 1]]
    result = labels(rows, [0, 1], Swapped(1))
    assert (result.agreeing, result.excused, result.verdict) == (1, 1, "passed")


def test_just_outside_the_tolerance_is_no_tie(labels):
    rows = [[1, 1 - NEAR * 1.2, 0], [0, 3, 1]]
    assert labels(rows, [0, 1], Swapped(1)).verdict == "failed"


def test_a_tie_of_two_classes_excuses_no_third_one(labels):
    rows = [[1, 1, 0], [0, 3, 1]]
    assert labels(rows, [0, 1], Swapped(2)).verdict == "failed"


def test_calls_of_a_fixed_batch_count_each_row_once_and_go_to_the_artifact_whole(
    source_of, backend_of
):
    class Pairs(Swapped):
        def forward(self, x):
            assert x.shape == (2, 3)
            return super().forward(x)

    trio = Trio(source_of(Passed(), "x:float32[2,3]"), ["output"],
                backend_of(Pairs(1), ("output",)))  # fmt: skip
    calls = np.asarray([*CLEAR, CLEAR[0]], np.float32).reshape(3, 2, 3)
    real = RealData("rows", {"x": calls}, np.asarray([0, 1, 2, 2, 0]), "output")
    result = check_labels(trio, real, SCALE, None)
    assert (result.samples, result.agreeing) == (5, 3)
    assert (result.torch_accuracy, result.artifact_accuracy) == (1.0, 0.6)


def test_nan_is_no_label(labels):
    class Nothing(nn.Module):
        def forward(self, x):
            return x * float("nan")

    rows = [[0, 1, 0], [0, 3, 1]]
    assert labels(rows, [1, 1], Nothing()).verdict == "failed"


def test_data_without_labels_have_nothing_to_check(source_of, backend_of):
    trio = Trio(source_of(Passed(), "x:float32[batch,3]"), ["output"],
                backend_of(Passed(), ("output",)))  # fmt: skip
    assert check_labels(trio, RealData("rows", {"x": np.zeros((2, 3))}), SCALE, 2) is None
