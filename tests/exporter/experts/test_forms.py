"""Every form computes the layer, of any kind and any number of tokens, and counts its load."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exporter.experts.expand import expand_node
from exporter.experts.node import moe_nodes, read_node
from exporter.passes.expand_experts import expand_experts
from runtime.errors import ExportError

OURS = {}
GATED = {"names": ("gate_up", "down"), "stacked": True, "activation": "silu"}
DEEPSEEK = {
    **GATED, "score": "sigmoid", "own_scores": True, "normalise": "sum", "epsilon": 1e-20,
    "scale": 2.5,
}  # fmt: skip
UNNORMALISED = {
    "names": ("gate", "up", "down"), "activation": "silu", "score": "softmax",
    "normalise": "none", "scale": 0.5,
}  # fmt: skip
BIASED_GATE = {"names": ("gate", "gate_bias", "up", "down", "down_bias"), "activation": "silu"}
STACKED = {"stacked": True, "scale": 3.0}
ONE_BIAS = {"names": ("up", "down", "down_bias"), "activation": "silu"}
KINDS = {
    "ours": OURS, "gated": GATED, "deepseek": DEEPSEEK, "unnormalised": UNNORMALISED,
    "biased_gate": BIASED_GATE, "stacked": STACKED, "one_bias": ONE_BIAS,
}  # fmt: skip
FORMS = ["sorted", "dense", "gathered", "fused", "choice_at_run_time"]
DATA_DEPENDENT = {
    "NonZero", "Unique", "Compress", "Loop", "If", "Scan", "Split", "Range", "ScatterND",
}  # fmt: skip


def expanded(layer, form, opset=20, load=True):
    model = layer.model(opset, load)
    (node,) = moe_nodes(model)
    moe = read_node(node)
    if form == "choice_at_run_time":
        expand_node(model, moe, "sorted", few=("fused", 1))
    elif form in ("dense", "gathered"):
        expand_node(model, moe, "static", most_tokens=0 if form == "gathered" else math.inf)
    else:
        expand_node(model, moe, form)
    return model


def assert_same(layer, outputs, arrays):
    y, load = layer.compute(arrays)
    assert outputs["y"].shape == y.shape
    assert outputs["y"].dtype == np.float32
    np.testing.assert_allclose(outputs["y"], y, rtol=1e-4, atol=1e-4)
    assert outputs["load"].dtype == np.int32
    np.testing.assert_array_equal(outputs["load"], load)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_form_computes_the_layer_for_any_number_of_tokens(layer_of, run_graph, kind, form):
    layer = layer_of(**KINDS[kind], experts=8)
    model = expanded(layer, form)
    for tokens in (0, 1, 2, 7, 64):
        arrays = layer.inputs((tokens,))
        assert_same(layer, run_graph(model, arrays), arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["ours", "deepseek"])
def test_rows_of_tokens_keep_their_shape_and_their_own_load(layer_of, run_graph, kind, form):
    layer = layer_of(**KINDS[kind], rank=3)
    model = expanded(layer, form)
    for leading in ((1, 1), (3, 5), (2, 0), (0, 4), (0, 0)):
        arrays = layer.inputs(leading)
        assert_same(layer, run_graph(model, arrays), arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("experts", "k"), [(1, 1), (5, 1), (5, 5), (3, 2), (16, 6)])
def test_any_k_of_any_number_of_experts(layer_of, run_graph, form, experts, k):
    layer = layer_of(experts=experts, k=k)
    model = expanded(layer, form)
    for tokens in (1, 9):
        arrays = layer.inputs((tokens,))
        assert_same(layer, run_graph(model, arrays), arrays)


@pytest.mark.parametrize("form", FORMS)
def test_ties_go_to_the_lowest_index(layer_of, run_graph, form):
    layer = layer_of(experts=8)
    model = expanded(layer, form)
    for tokens in (1, 50):
        arrays = layer.inputs((tokens,), tied=True)
        arrays["choice"][0] = 0.0
        outputs = run_graph(model, arrays)
        assert_same(layer, outputs, arrays)
        assert outputs["load"][0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("form", FORMS)
def test_a_masked_group_is_never_chosen(layer_of, run_graph, form):
    layer = layer_of(**DEEPSEEK, experts=6)
    arrays = layer.inputs((20,))
    arrays["choice"][:, :3] = -np.inf
    outputs = run_graph(expanded(layer, form), arrays)
    assert_same(layer, outputs, arrays)
    assert not outputs["load"][:, :3].any()


@pytest.mark.parametrize("form", FORMS)
def test_scores_that_vanish_give_zero_and_not_nan(layer_of, run_graph, form):
    layer = layer_of(**DEEPSEEK)
    arrays = layer.inputs((3,))
    arrays["scores"][:] = 0.0
    outputs = run_graph(expanded(layer, form), arrays)
    assert not outputs["y"].any()


@pytest.mark.parametrize("form", ["sorted", "dense", "gathered"])
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_activations_of_every_opset(layer_of, run_graph, form, activation, opset):
    layer = layer_of(activation=activation)
    arrays = layer.inputs((11,))
    assert_same(layer, run_graph(expanded(layer, form, opset), arrays), arrays)


@pytest.mark.parametrize("opset", [18, 23])
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu_tanh"])
def test_activations_of_the_fused_operator(layer_of, run_graph, activation, opset):
    layer = layer_of(activation=activation)
    arrays = layer.inputs((11,))
    assert_same(layer, run_graph(expanded(layer, "fused", opset), arrays), arrays)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"activation": "gelu"}, "no gelu"),
        ({**GATED, "activation": "gelu_tanh"}, "silu only, not gelu_tanh"),
        ({"normalise": "sum"}, "raw scores with normalise 'sum'"),
    ],
)
def test_what_the_fused_operator_cannot_compute_is_refused_by_name(layer_of, kind, said):
    layer = layer_of(**kind)
    with pytest.raises(ExportError, match=rf"layer 'blocks.0.moe'.*{said}.*--moe-form sorted"):
        expand_experts("fused")(layer.model())


@pytest.mark.parametrize("most", [2, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_the_static_form_has_no_operator_whose_shape_depends_on_data(layer_of, kind, most):
    layer = layer_of(**KINDS[kind], experts=16)
    model, _ = expand_experts("static", {"T": (1, most)})(layer.model())
    kinds = {node.op_type for node in model.graph}
    assert not kinds & DATA_DEPENDENT
    assert not any("reduction" in node.attributes for node in model.graph)
    measured = {node.inputs[0].name for node in model.graph if node.op_type == "Shape"}
    assert measured <= {"choice", "blocks.0.moe/TopK.1"}
    assert ("Gather" in kinds) == (most == 2)


def test_the_sorted_form_runs_one_gemm_chain_an_expert(layer_of):
    model = expanded(layer_of(experts=8), "sorted")
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Gemm") == 16
    assert kinds.count("Relu") == 8
    assert kinds.count("Split") == 1


@settings(max_examples=25, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(data=st.data())
def test_all_forms_agree_on_layers_and_scores_that_tie(layer_of, run_graph, data):
    experts = data.draw(st.integers(1, 6))
    layer = layer_of(experts=experts, k=data.draw(st.integers(1, experts)), width=2, hidden=3)
    tokens = data.draw(st.integers(0, 5))
    values = st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=experts, max_size=experts)
    choice = data.draw(st.lists(values, min_size=tokens, max_size=tokens))
    arrays = layer.inputs((tokens,))
    arrays["choice"] = np.array(choice, dtype=np.float32).reshape(tokens, experts)
    for form in FORMS:
        assert_same(layer, run_graph(expanded(layer, form), arrays), arrays)


def test_topk_of_all_elements_is_a_stable_sort(run_graph, graph_of):
    from onnx import TensorProto, helper

    node = helper.make_node("TopK", ["x", "n"], ["values", "order"], axis=0, largest=0)
    infos = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N"])
             for name in ("x", "values", "order")]  # fmt: skip
    count = helper.make_tensor_value_info("n", TensorProto.INT64, [1])
    model = graph_of([node], [infos[0], count], infos[1:], {})
    assert isinstance(model, ir.Model)
    rng = np.random.default_rng(0)
    for size in (1, 2, 17, 600):
        x = rng.integers(0, 8, size)
        order = run_graph(model, {"x": x, "n": np.array([size])})["order"]
        np.testing.assert_array_equal(order, np.argsort(x, kind="stable"))
