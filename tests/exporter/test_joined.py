"""Requests are joined only where joining was seen to change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from exporter.joined import check_joined
from exporter.samples import Plan
from exporter.trio import Trio


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x)


class Mixing(Net):
    def forward(self, x):
        return super().forward(x) + 1e-3 * x.mean()


class NeverAlone(Net):
    def forward(self, x):
        if len(x) < 2:
            raise ValueError("two at least")
        return super().forward(x)


@pytest.fixture
def joined(source_of, backend_of):
    def check(module, artifact=None):
        source = source_of(module, "x:float32[n,4]", ranges={"n": (1, 9)})
        plan = Plan(source, "n", True, 0)
        backend = backend_of(artifact or module, ("output",))
        several = [s for s in plan.first_samples() if s.axes["n"] > 1]
        return check_joined(Trio(source, ["output"], backend), several, "n")

    return check


def test_rows_of_their_own_may_be_joined(joined):
    result = joined(Net())
    assert result.batchable
    assert "rows in batches of 2, 7, 9" in result.reason


def test_a_module_that_mixes_rows_excuses_no_artifact_that_does(joined):
    result = joined(Mixing())
    assert not result.batchable
    assert "joined requests give other answers: 'output'" in result.reason


def test_an_artifact_that_mixes_rows_is_not_joined_either(joined):
    assert not joined(Net(), Mixing()).batchable


def test_a_module_that_takes_no_single_row_is_not_joined(joined):
    result = joined(NeverAlone())
    assert not result.batchable
    assert "two at least" in result.reason


def test_an_axis_with_nothing_to_join_is_not_joined(source_of, backend_of):
    source = source_of(Net(), "x:float32[n,4]")
    trio = Trio(source, ["output"], backend_of(Net(), ("output",)))
    result = check_joined(trio, [], "n")
    assert not result.batchable
    assert "axis 'n' has one size only" in result.reason
