"""The module at fault is named, a correct model passes, and nothing is left out in silence."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.layer_proof.budget import local_snr_db, modules_over
from exporter.layer_proof.records import divergence_text
from runtime.proof import RMS_LIMIT


@pytest.mark.parametrize("name", ["pictures", "calls", "routed"])
def test_a_correct_model_passes_at_both_levels(name, request):
    exported = request.getfixturevalue(name)
    proof = exported.proof()
    assert proof.passed
    assert divergence_text(proof) == ""
    assert proof.levels == ("no optimisation", "full optimisation")
    assert all(item.verdict == "passed" for item in proof.outputs)
    for row in proof.rows:
        assert row.accumulated is not None
        assert (row.local.rms_factor or 0) <= RMS_LIMIT


def test_every_module_has_a_row_or_a_reason(pictures, calls, routed):
    for exported in (pictures, calls, routed):
        proof = exported.proof()
        there = {row.module for row in proof.rows} | {item.module for item in proof.not_compared}
        assert there >= {path for path, _ in exported.source.module.named_modules() if path}
        assert all(item.reason for item in proof.not_compared)


def test_rows_stand_in_graph_order_with_node_and_class(pictures):
    rows = pictures.proof().rows
    assert [row.module for row in rows if row.side == "output"] == [
        "folded", "act", "norm", "second", "body.0", "body.1", "body.3", "scale", "head",
    ]  # fmt: skip
    linear = next(row for row in rows if row.module == "body.3")
    assert str(linear) == "body.3 (Linear)"
    assert linear.operators == ("Gemm",)
    assert len(linear.nodes) == 1


FAULTS = {
    "one weight off by 1 %": ("second", lambda p: p.one_off("second.weight")),
    "a layer in fp16": ("body.3", lambda p: p.weight(
        "body.3.weight", lambda w: w.astype(np.float16).astype(np.float32))),
    "another epsilon in a BatchNorm": ("norm", lambda p: p.attribute(
        "node__native_batch_norm_legit_no_training_1__0", "epsilon", 1e-3)),
    "another epsilon in a LayerNorm": ("scale", lambda p: p.attribute(
        "node_layer_norm", "epsilon", 1e-3)),
    "swapped weights": ("body.3", lambda p: p.swap("body.3.bias", "body.0.bias")),
    "another padding": ("second", lambda p: p.attribute("node_conv2d_1", "pads", [0, 0, 2, 2])),
    "a ReLU lost": ("act", lambda p: p.lose("Relu", 0)),
    "a ReLU lost between linear layers": ("body.1", lambda p: p.lose("Relu", 1)),
    "an activation of the root lost": ("", lambda p: p.lose("Tanh", 0)),
    "a weight of a folded norm": ("folded", lambda p: p.one_off("stem.weight")),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_the_module_with_a_planted_fault_is_named(fault, pictures, plants):
    module, make = FAULTS[fault]
    proof = pictures.proof(make(plants))
    if fault == "swapped weights":
        module = "body.0"  # both are wrong, and this one comes first
    assert proof.first is not None
    assert proof.first.module == module, divergence_text(proof)
    assert proof.first.local.rms_factor > RMS_LIMIT
    assert proof.levels == ("no optimisation",)
    text = divergence_text(proof)
    assert f"is {module or 'the root'} (" in text
    assert "read with no optimisation" in text


def test_a_folded_norm_is_judged_with_the_convolution_it_went_into(pictures, plants):
    proof = pictures.proof()
    row = next(row for row in proof.rows if row.module == "folded")
    assert row.joined == ("stem",)
    reasons = {item.module: item.reason for item in proof.not_compared}
    assert reasons["stem"] == f"its value is not in the graph; it is judged in '{row.value}'"


def test_what_comes_after_a_fault_is_within_its_local_budget_and_over_the_accumulated_one(
    pictures, plants
):
    rows = pictures.proof(plants.one_off("second.weight")).rows
    head = rows[-1]
    assert head.local.verdict == "passed"
    assert head.accumulated.verdict == "failed"


def test_calls_of_one_module_are_told_apart(calls, plants):
    proof = calls.proof()
    shown = [str(row) for row in proof.rows]
    assert "shared (Linear)" in shown
    assert "shared (Linear, call 2)" in shown
    assert "two (Two)" in shown
    assert "two (Two, call 2)" in shown
    assert sum(row.module == "lstm" for row in proof.rows) == 2


def test_modules_that_cannot_be_compared_are_listed_with_the_reason(calls, routed):
    reasons = {item.module: item.reason for item in calls.proof().not_compared}
    assert reasons["cell"].startswith("its 3 calls cannot be told apart in the graph; they are")
    assert reasons["block"] == "it computes nothing of its own"
    assert reasons["borrowed"].startswith("its forward is never called")
    reasons = {item.module: item.reason for item in routed.proof().not_compared}
    assert reasons["moe.experts.1.fc2"] == "inside 'moe', a layer of experts compared as a whole"


@pytest.mark.parametrize(
    ("module", "weight"),
    [
        ("two.second", "two.second.weight"),
        ("block.0", "block.0.weight"),
        ("shared", "again.weight"),
        ("", "borrowed.weight"),
    ],
)
def test_faults_of_repeated_shared_and_borrowed_modules_are_named(module, weight, calls, plants):
    names = [item.name for item in calls.model.graph.initializer]
    found = [name for name in names if name == weight]
    if not found:  # transposed, under a name of torch's own
        reader = next(node for node in calls.model.graph.node if node.op_type == "MatMul")
        found = [name for name in reader.input if name in names]
    proof = calls.proof(plants.weight(found[0], lambda w: w * np.float32(1.01)))
    assert proof.first is not None
    assert proof.first.module == module, divergence_text(proof)


def test_a_recurrent_layer_with_a_fault_is_named(calls, plants):
    reader = next(node for node in calls.model.graph.node if node.op_type == "LSTM")
    proof = calls.proof(plants.weight(reader.input[1], lambda w: w * np.float32(1.001)))
    assert proof.first is not None
    assert proof.first.module == "lstm"


def test_a_layer_of_experts_with_a_fault_is_named(routed, plants):
    weights = [item.name for item in routed.model.graph.initializer if "moe" in item.name]
    experts = [name for name in weights if "gate" not in name]
    assert experts
    proof = routed.proof(*(plants.weight(n, lambda w: w * np.float32(1.001)) for n in experts))
    assert proof.first is not None
    assert proof.first.module == "moe"


def test_a_budget_that_is_over_says_so_and_each_kind_was_run_once(calls):
    assert not calls.proof().cut_by_budget
    proof = calls.proof(budget_s=0.0)
    assert proof.cut_by_budget
    assert proof.samples == 2
    assert proof.passed


def test_modules_over_a_budget_of_noise_are_given_in_graph_order(pictures, plants):
    half = plants.weight("second.weight", lambda w: w.astype(np.float16).astype(np.float32))
    eighth = plants.weight("head.weight", lambda w: np.round(w * 16) / np.float32(16))
    proof = pictures.proof(half, eighth)
    assert modules_over(proof, 90.0) == ("second", "head")
    assert modules_over(proof, 60.0) == ("head",)
    assert modules_over(proof, 0.0) == ()
    exact = next(row for row in proof.rows if row.module == "act")
    assert local_snr_db(exact) == float("inf")
