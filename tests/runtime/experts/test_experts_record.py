from __future__ import annotations

import numpy as np
import pytest

from runtime.commands.experts_record import routing_of
from runtime.errors import InvalidInput, PlacementError
from runtime.experts.trace import trace_from_answers


class Gate:
    """A model of one layer that sends row ``[e]`` to expert e."""

    def __init__(self):
        self.asked = []

    def infer(self, name, arrays, *, outputs):
        self.asked.append((name, outputs))
        load = np.zeros((1, 1, 4), dtype=np.int32)
        load[0, 0, int(arrays["x"][0, 0])] = 3
        return {"expert_load": load}


def test_every_row_is_a_request_that_asks_for_the_load_alone():
    gate = Gate()
    rows = {"x": np.array([[0], [0], [1], [3]])}
    trace = trace_from_answers(routing_of(gate, "moe", rows), 2, "recorded")
    assert gate.asked == [("moe", ["expert_load"])] * 4
    assert trace.counts.tolist() == [[[6, 0, 0, 0]], [[0, 3, 0, 3]]]


@pytest.mark.parametrize(
    "arrays", [{"x": np.array(1.0)}, {"x": np.ones((2, 1)), "y": np.ones((3, 1))}, {}]
)
def test_inputs_without_rows_in_common_are_refused(arrays):
    with pytest.raises(InvalidInput, match="no rows in common"):
        list(routing_of(Gate(), "moe", arrays))


def test_more_experts_of_a_token_than_there_are_is_refused_with_the_first_answer():
    gate = Gate()
    with pytest.raises(PlacementError, match=r"top_k is 5; .* there are 4"):
        list(routing_of(gate, "moe", {"x": np.zeros((3, 1))}, 5))
    assert len(gate.asked) == 1


@pytest.mark.parametrize(
    ("file", "said"), [("t.npy", "another ending"), ("nowhere/t.npz", "there is no folder")]
)
def test_the_file_is_checked_before_anything_is_asked(file, said, twinport, tmp_path):
    nobody = "127.0.0.1:1"
    ran = twinport("experts", "record", tmp_path / file, "moe", "x.npy", "--url", nobody)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert said in ran.err
