"""What is there twice is kept once, under the names of the first and of the outputs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from exporter.layers import scopes_of
from exporter.passes.drop_dead_code import drop_dead_code
from exporter.passes.merge_duplicates import initializers_differ, merge_duplicates
from exporter.passes.run import run_passes

X = np.array([1, 2, 3], np.float32)


def test_equal_nodes_are_the_first_one(model_of, answers):
    model = model_of(
        "net (float[n] x) => (float y) { a = Sin (x) b = Sin (x) y = Add (a, b) }",
        {"a": "one", "b": "two"},
    )
    (before,) = answers(model, x=X)
    first, second = run_passes(model, [merge_duplicates]).graph
    assert (first.name, scopes_of(first), second.name) == ("node_a", ["", "one"], "node_y")
    np.testing.assert_array_equal(answers(model, x=X)[0], before)


def test_a_duplicate_that_is_an_output_keeps_its_name(model_of, answers):
    model = model_of("net (float[n] x) => (float a, float b) { a = Sin (x) b = Sin (x) }")
    before = answers(model, x=X)
    first, second = run_passes(model, [merge_duplicates]).graph
    assert (first.op_type, second.op_type, second.name) == ("Sin", "Identity", "node_b")
    np.testing.assert_array_equal(answers(model, x=X), before)


def test_equal_initializers_are_one_whatever_their_layout_in_memory(model_of, answers):
    array = np.random.RandomState(0).standard_normal((3, 100)).astype(np.float32)
    model = model_of(
        "net (float[3,100] x) => (float y) { a = Add (x, k) y = Mul (a, l) }", k=array, l=array
    )
    value = model.graph.initializers["l"]
    value.const_value = ir.Tensor(np.asfortranarray(array), name="l")
    assert "'k' and 'l'" in initializers_differ(model)
    (before,) = answers(model, x=array)
    run_passes(model, [merge_duplicates])
    assert list(model.graph.initializers) == ["k"]
    np.testing.assert_array_equal(answers(model, x=array)[0], before)


def test_initializers_that_differ_late_or_in_type_stay(model_of):
    one = np.zeros(200, np.float32)
    two = one.copy()
    two[-1] = 1
    model = model_of(
        "net (float[200] x) => (float a, float b, double c) "
        "{ a = Add (x, k) b = Add (x, l) d = Cast <to = 11> (x) c = Add (d, m) }",
        k=one, l=two, m=one.astype(np.float64),
    )  # fmt: skip
    assert merge_duplicates(model)[1] is False
    assert len(model.graph.initializers) == 3


def test_nodes_that_draw_numbers_stay_two(model_of):
    model = model_of(
        "net (float[n] x) => (float y) { a = RandomUniformLike (x) b = RandomUniformLike (x) "
        "y = Sub (a, b) }"
    )
    assert len(run_passes(model, [merge_duplicates]).graph) == 3


def test_what_nothing_reads_goes_and_the_ends_stay(model_of):
    model = model_of(
        "net (float[n] x, float[n] unused) => (float y) { a = Sin (x) b = Mul (a, k) y = Cos (x) }",
        k=X,
    )
    (node,) = run_passes(model, [drop_dead_code]).graph
    assert (node.name, len(model.graph.initializers)) == ("node_y", 0)
    assert [value.name for value in model.graph.inputs] == ["x", "unused"]
    assert drop_dead_code(model)[1] is False
