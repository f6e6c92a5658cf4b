"""The load of experts, summed over the evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from exporter.report.balance import expert_loads
from exporter.report.here import Here
from runtime.golden import Case, Golden, Kept, kept_sample
from runtime.proof_records import RoutingCheck

LOAD = np.array([[[4, 0, 2, 2], [2, 2, 2, 2]], [[4, 0, 2, 2], [2, 2, 4, 0]]])


def case(kind: str, kept: Kept, extreme: bool = False) -> Case:
    return Case(kind, extreme, {"x": np.zeros((2, 3))}, {"expert_load": kept})


@pytest.fixture
def manifest(lenet):
    (proof,) = lenet.manifest.proofs
    routing = RoutingCheck(("a.moe", "b.moe"), 4, 2, 0, 7, (), 0)
    return replace(lenet.manifest, proofs=(replace(proof, routing=routing),))


def test_tokens_are_summed_by_kind_and_the_balance_told(manifest):
    whole = Kept(LOAD, LOAD.shape)
    cases = (case("real", whole), case("real", whole), case("zeros", whole, extreme=True))
    (load,) = expert_loads(Golden(True, cases), [manifest], Here())
    assert (load.kind, load.samples, load.counted_by) == ("real", 4, "truth")
    np.testing.assert_array_equal(load.tokens, [[16, 0, 8, 8], [8, 8, 12, 4]])
    first, second = load.layers
    assert (first.layer, first.tokens, first.unused) == ("a.moe", 32, 1)
    assert first.busiest == 2.0
    assert (first.least, second.least) == (0.0, 0.125)


def test_the_artifact_counts_where_the_truth_was_kept_in_part(manifest):
    golden = Golden(True, (case("real", kept_sample(LOAD, 2, 1, 3)),))
    assert expert_loads(golden, [manifest], Here(reason="there is no GPU")) == ()
    (load,) = expert_loads(golden, [manifest], Here(answers=({"expert_load": LOAD},)))
    assert load.counted_by == "artifact"
    np.testing.assert_array_equal(load.tokens, LOAD.sum(0))


def test_layers_have_numbers_where_no_routing_check_names_them(lenet):
    (load,) = expert_loads(Golden(True, (case("real", Kept(LOAD, LOAD.shape)),)), [lenet.manifest],
                           Here())  # fmt: skip
    assert [item.layer for item in load.layers] == ["layer 0", "layer 1"]


def test_a_model_without_experts_has_no_load(lenet):
    plain = Case("real", False, {"x": np.zeros((2, 3))}, {"y": Kept(np.zeros((2, 1)), (2, 1))})
    assert expert_loads(Golden(True, (plain,)), [lenet.manifest], Here()) == ()
