"""Constants are computed at export, within bounds, and named after what they are made of."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.passes import fold_constants as folding
from exporter.passes.conditions import constants_are_initializers
from exporter.passes.fold_constants import LARGEST, fold_constants
from exporter.passes.run import run_passes


def stored(model):
    return sum(value.const_value.nbytes for value in model.graph.initializers.values())


def test_what_depends_on_constants_alone_becomes_an_initializer_of_its_values_name(
    model_of, answers
):
    model = model_of(
        "net (float[n,4] x) => (float y) { a = Exp (k) b = Mul (a, k) y = Add (x, b) }",
        k=np.arange(4, dtype=np.float32),
    )
    x = np.ones((2, 4), np.float32)
    (before,) = answers(model, x=x)
    (node,) = run_passes(model, [fold_constants]).graph
    assert (node.name, list(model.graph.initializers)) == ("node_y", ["b"])
    np.testing.assert_allclose(answers(model, x=x)[0], before, rtol=1e-6)


def test_sizes_that_are_known_are_computed_and_free_ones_are_not(model_of, answers):
    model = model_of(
        "net (float[n,4] x) => (int64[1] four, int64[1] free) {"
        "four = Shape <start: int = 1, end: int = 2> (x)"
        "free = Shape <start: int = 0, end: int = 1> (x) }"
    )
    run_passes(model, [fold_constants])
    assert [node.name for node in model.graph if node.op_type == "Shape"] == ["node_free"]
    four, free = answers(model, x=np.ones((3, 4), np.float32))
    assert (four.tolist(), free.tolist()) == ([4], [3])


def test_a_result_larger_than_what_it_is_made_of_stays_a_node(model_of):
    wide = np.array([1, LARGEST + 1], np.int64)
    model = model_of(
        "net (float[n,1] x) => (float y) { e = Expand (k, wide) y = Add (x, e) }",
        k=np.ones((1, 1), np.float32), wide=wide,
    )  # fmt: skip
    before = stored(model)
    run_passes(model, [fold_constants])
    assert [node.op_type for node in model.graph] == ["Expand", "Add"]
    assert stored(model) == before


def test_a_large_parameter_in_another_form_replaces_itself_under_its_modules_name(
    model_of, answers
):
    weight = np.random.RandomState(0).standard_normal((64, 32)).astype(np.float32)
    model = model_of(
        "net (float[n,32] x) => (float y) {"
        "t = Transpose <perm: ints = [1, 0]> (fc__weight) y = MatMul (x, t) }",
        fc__weight=weight,
    )
    x = np.ones((2, 32), np.float32)
    (before,) = answers(model, x=x)
    run_passes(model, [fold_constants])
    assert list(model.graph.initializers) == ["fc.weight.folded"]
    assert stored(model) == weight.nbytes
    np.testing.assert_array_equal(answers(model, x=x)[0], before)


def test_all_results_together_stay_within_the_bound(model_of, monkeypatch):
    monkeypatch.setattr(folding, "GROWTH_BYTES", 3 * 256 * 8)
    lines = "".join(f"e{i} = Expand (k{i}, w) x{i + 1} = Add (x{i}, e{i}) " for i in range(8))
    given = {f"k{i}": np.full((1, 1), i, np.float32) for i in range(8)}
    model = model_of(
        f"net (float[n,1] x0) => (float x8) {{ {lines} }}",
        w=np.array([1, 256], np.int64), **given,
    )  # fmt: skip
    run_passes(model, [fold_constants])
    left = sum(node.op_type == "Expand" for node in model.graph)
    assert 0 < left < 8
    assert stored(model) < 3 * 256 * 8


def test_constants_of_subgraphs_come_out(model_of):
    model = model_of(
        "net (bool c, float[1] x) => (float y) { y = If (c) <"
        "then_branch = then () => (float a) { k = Constant <value_floats = [2.0]> () "
        "a = Mul (x, k) },"
        "else_branch = other () => (float b) { b = Identity (x) }> }"
    )
    run_passes(model, [fold_constants])
    assert list(model.graph.initializers) == ["k"]
    assert not any(n.op_type == "Constant" for graph in model.graphs() for n in graph)


def test_quantisation_and_chance_stay(model_of):
    model = model_of(
        "net (float[4] x) => (float y) { q = DequantizeLinear (w, s) "
        "r = RandomUniform <shape = [4]> () a = Add (q, r) y = Add (x, a) }",
        w=np.ones(4, np.int8), s=np.float32(0.5),
    )  # fmt: skip
    assert len(run_passes(model, [fold_constants]).graph) == 4


@pytest.mark.parametrize("node", ["c = Constant <value_float = 1.0> ()", "c = Cast <to = 1> (k)"])
def test_the_postcondition_sees_a_constant_that_is_left(model_of, node):
    model = model_of(
        f"net (float[n] x) => (float y) {{ {node} y = Add (x, c) }}", k=np.array([1], np.int64)
    )
    assert "node_c" in constants_are_initializers(model)
    assert constants_are_initializers(fold_constants(model)[0]) == ""
