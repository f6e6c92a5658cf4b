"""Chosen nodes compute in the lower type, everything else stays as it is, names included."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.passes.run import run_passes
from exporter.precision.kinds import FLOATS
from exporter.precision.lower import lower_floats
from exporter.precision.slots import low_slots

FP16, BF16 = FLOATS["fp16"], FLOATS["bf16"]
X = np.random.RandomState(0).standard_normal((5, 4)).astype(np.float32)
W = np.random.RandomState(1).standard_normal((4, 3)).astype(np.float32)
CHAIN = """g (float[N,4] x) => (float[N,3] y) {
    h = MatMul(x, w)
    r = Relu(h)
    y = Add(r, b)
}"""


def lowered(model, *nodes, kind=FP16):
    result = run_passes(model.clone(), [lower_floats(kind, {f"node_{name}" for name in nodes})])
    proto = ir.to_proto(result)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)  # types that do not fit are refused here
    return result


def dtypes(model):
    return {str(v.name): v.dtype.name for node in model.graph for v in node.outputs}


@pytest.fixture
def chain(graph_of):
    return graph_of(CHAIN, w=W, b=np.ones(3, np.float32))


def test_all_nodes_lowered_leave_one_cast_at_either_end(chain, kinds_of, run_graph):
    model = lowered(chain, "h", "r", "y")
    assert kinds_of(model) == ["Cast", "MatMul", "Relu", "Add", "Cast"]
    assert [v.dtype.name for v in (*model.graph.inputs, *model.graph.outputs)] == ["FLOAT"] * 2
    assert {v.dtype.name for v in model.graph.initializers.values()} == {"FLOAT16"}
    right, given = (run_graph(graph, x=X)["y"] for graph in (chain, model))
    assert given.dtype == np.float32
    assert 0 < np.abs(given - right).max() < 1e-2


def test_names_of_nodes_and_ends_stay_and_an_output_keeps_its_own(chain):
    model = lowered(chain, "h", "r", "y")
    names = {node.name for node in model.graph}
    assert names >= {"node_h", "node_r", "node_y"}
    assert [v.name for v in model.graph.outputs] == ["y"]
    assert dtypes(model) == {
        "x.fp16": "FLOAT16", "h": "FLOAT16", "r": "FLOAT16", "y.fp16": "FLOAT16", "y": "FLOAT",
    }  # fmt: skip


def test_a_node_in_the_middle_that_stays_has_a_cast_before_and_one_after(chain, kinds_of):
    model = lowered(chain, "h", "y")
    assert kinds_of(model) == ["Cast", "MatMul", "Cast", "Relu", "Cast", "Add", "Cast"]
    assert dtypes(model)["r"] == "FLOAT"


def test_casts_are_of_the_module_of_the_node_before_them(chain):
    model = lowered(chain, "h", "r", "y")
    last = list(model.graph)[-1]
    assert last.metadata_props == next(n for n in model.graph if n.name == "node_y").metadata_props


def test_a_value_that_many_read_is_cast_once(graph_of, kinds_of):
    model = graph_of("""g (float[N,4] x) => (float[N,3] a, float[N,3] b) {
        a = MatMul(x, w)
        b = MatMul(x, w)
    }""", w=W)  # fmt: skip
    assert kinds_of(lowered(model, "a", "b")) == ["Cast", "MatMul", "Cast", "MatMul", "Cast"]


def test_a_weight_that_both_types_read_is_there_in_both(graph_of):
    model = graph_of("""g (float[N,4] x) => (float[N,3] a, float[N,3] b) {
        a = MatMul(x, w)
        b = MatMul(x, w)
    }""", w=W)  # fmt: skip
    weights = lowered(model, "a").graph.initializers
    assert {name: value.dtype.name for name, value in weights.items()} == {
        "w": "FLOAT", "w.fp16": "FLOAT16",
    }  # fmt: skip


def test_what_gives_no_floats_takes_what_comes(graph_of, kinds_of):
    model = graph_of("""g (float[N,4] x) => (int64[N] best, int64[2] size) {
        h = MatMul(x, w)
        best = ArgMax <axis = 1, keepdims = 0> (h)
        size = Shape(h)
    }""", w=W)  # fmt: skip
    assert kinds_of(lowered(model, "h")) == ["Cast", "MatMul", "ArgMax", "Shape"]


def test_a_comparison_of_two_values_gets_them_in_float32(graph_of, kinds_of):
    model = graph_of("""g (float[N,4] x, float[N,3] t) => (bool[N,3] more) {
        h = MatMul(x, w)
        more = Greater(h, t)
    }""", w=W)  # fmt: skip
    assert kinds_of(lowered(model, "h")) == ["Cast", "MatMul", "Cast", "Greater"]


def test_a_cast_to_float_that_is_chosen_gives_the_lower_type(graph_of, kinds_of, run_graph):
    model = graph_of("""g (int64[N,4] x) => (float[N,3] y) {
        f = Cast <to = 1> (x)
        y = MatMul(f, w)
    }""", w=W)  # fmt: skip
    result = lowered(model, "f", "y")
    assert kinds_of(result) == ["Cast", "MatMul", "Cast"]
    whole = np.arange(20).reshape(5, 4)
    assert np.allclose(run_graph(result, x=whole)["y"], whole @ W, rtol=1e-2, atol=1e-2)


def test_a_constant_node_becomes_a_constant_of_the_lower_type(graph_of, kinds_of, run_graph):
    model = graph_of("""g (float[N,4] x) => (float[N,4] y) {
        c = Constant <value_float = 2.5> ()
        y = Mul(x, c)
    }""")  # fmt: skip
    result = lowered(model, "y")
    assert kinds_of(result) == ["Cast", "Mul", "Cast"]
    assert np.allclose(run_graph(result, x=X)["y"], 2.5 * X, rtol=1e-2)


def test_inputs_that_a_schema_holds_to_float32_stay_so(graph_of):
    model = graph_of("""g (float[N,1,4,4] x) => (float[N,1,8,8] y) {
        y = Resize <mode = "nearest"> (x, , scales)
    }""", scales=np.array([1, 1, 2, 2], np.float32))  # fmt: skip
    weights = lowered(model, "y").graph.initializers
    assert {name: value.dtype.name for name, value in weights.items()} == {"scales": "FLOAT"}


def test_a_branch_reads_the_lower_value_outside_and_gives_float32(graph_of, run_graph):
    model = graph_of("""g (bool go, float[N,4] x) => (float[N,3] y) {
        h = MatMul(x, w)
        y = If (go) <
            then_branch = t () => (float[N,3] a) { a = Relu(h) },
            else_branch = e () => (float[N,3] b) { b = Neg(h) }
        >
    }""", w=W)  # fmt: skip
    result = lowered(model, "h")
    for go, right in ((True, np.maximum(X @ W, 0)), (False, -(X @ W))):
        given = run_graph(result, go=np.array(go), x=X)["y"]
        assert np.allclose(given, right, atol=1e-2)


def test_convolutions_have_no_bf16_before_opset_22_and_matrix_products_do(graph_of):
    model = graph_of("""g (float[N,1,4,4] x) => (float[N,1,2,2] y, float[N,1,4,3] z) {
        y = Conv(x, k)
        z = MatMul(x, w)
    }""", k=np.ones((1, 1, 3, 3), np.float32), w=W)  # fmt: skip
    conv, product = model.graph
    assert not low_slots(conv, 20, BF16.dtype).outputs
    assert low_slots(conv, 22, BF16.dtype).outputs == {0}
    assert low_slots(product, 20, BF16.dtype).inputs == {0, 1}


def test_the_types_of_outputs_that_an_attribute_decides_are_left_alone(graph_of):
    model = graph_of("""g (float[N,4] x) => (float[N,4] y, float[N,1] m) {
        y, m = LayerNormalization(x, s)
    }""", s=np.ones(4, np.float32))  # fmt: skip
    assert low_slots(next(iter(model.graph)), 20, FP16.dtype).outputs == {0}
