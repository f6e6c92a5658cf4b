"""Large batches: the artifact gets them whole, the truth is computed in parts and not twice."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from exporter.joined import check_joined
from exporter.parity import LEAST_BUDGET_S, ProofOptions
from exporter.samples import Plan
from exporter.trio import PART_ROWS, Trio


class Counting(nn.Module):
    """Notes how many rows it was run on, in each precision."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)
        self.seen = []

    def __deepcopy__(self, memo):
        copy = Counting()
        copy.seen = self.seen  # the float64 copy notes its rows here, too
        return copy

    def forward(self, x):
        self.seen.append((str(x.dtype)[6:], len(x)))
        return self.layer(x)


@pytest.fixture
def trio(source_of, backend_of):
    module = Counting()
    source = source_of(module, "x:float32[batch,4]", ranges={"batch": (1, 64)})
    backend = backend_of(nn.Sequential(), ("output",))
    calls = []

    def infer(arrays, outputs=None):
        calls.append(len(arrays["x"]))
        weight, bias = (value.detach().numpy() for value in module.layer.parameters())
        return {"output": arrays["x"] @ weight.T + bias}

    backend.infer = infer
    made = Trio(source, ["output"], backend)
    made.calls, made.seen, made.plan = calls, module.seen, Plan(source, "batch", True, 0)
    return made


def rows(trio, precision):
    return [count for kind, count in trio.seen if kind == precision]


def test_a_large_batch_is_one_call_of_the_artifact_and_parts_of_the_truth(trio):
    largest = trio.plan.first_samples()[-1]
    answered = trio.run(largest, rows=True)
    assert trio.calls == [64]
    assert rows(trio, "float64") == [PART_ROWS] * (64 // PART_ROWS)
    assert answered.sample is largest
    np.testing.assert_allclose(answered.artifact["output"], answered.truth["output"], atol=1e-6)


def test_rows_that_may_depend_on_each_other_are_not_taken_apart(trio):
    trio.run(trio.plan.first_samples()[-1], rows=False)
    assert rows(trio, "float64") == rows(trio, "float32") == [64]


def test_a_time_that_is_over_leaves_the_first_part_of_a_batch_that_ran_whole(trio):
    largest = trio.plan.first_samples()[-1]
    answered = trio.run(largest, rows=True, until=time.monotonic() - 1)
    assert trio.calls == [64]
    assert len(answered.truth["output"]) == len(answered.artifact["output"]) == PART_ROWS
    assert answered.sample.axes == largest.axes
    np.testing.assert_array_equal(
        answered.sample.arrays()["x"], largest.arrays()["x"][:PART_ROWS]
    )  # fmt: skip


def test_what_the_check_of_joined_rows_ran_is_not_run_again(trio):
    samples = trio.plan.first_samples()
    trio.check_repeats(samples[0])
    joined = check_joined(trio, samples[1:], "batch")
    assert joined.batchable
    trio.seen.clear()
    trio.calls.clear()
    for sample in samples[:-1]:  # of one, two and seven rows
        answered = trio.run(sample, rows=True)
        assert len(answered.truth["output"]) == sample.axes["batch"]
    assert trio.seen == []
    assert trio.calls == [1]  # the others were answered together already
    trio.run(samples[-1], rows=True)
    assert trio.calls == [1]
    assert sum(rows(trio, "float64")) == 64


def test_the_truth_is_moved_only_where_that_can_widen_a_limit(trio, source_of, backend_of):
    large = list(trio.plan.extremes())[-1]
    assert trio.run(large, rows=True).moved == {}  # a linear layer is at float32's floor
    waves = Wave()
    source = source_of(waves, "x:float32[batch,4]")
    other = Trio(source, ["output"], backend_of(waves, ("output",)))
    assert set(other.run(large, rows=True).moved) == {"output"}


class Wave(nn.Module):
    """Loses its digits on large angles."""

    def forward(self, x):
        return torch.sin(x * 3.0)


def test_a_budget_that_follows_the_export_stays_within_its_bounds():
    options = ProofOptions(as_export=True)
    assert options.after_export(8.04).budget_s == 8.0
    assert options.after_export(0.1).budget_s == LEAST_BUDGET_S
    assert options.after_export(300.0).budget_s == options.budget_s == 20.0
    assert ProofOptions(budget_s=3.0).after_export(8.0).budget_s == 3.0
