"""Products read int8 through Q and DQ; scales fit their channels; nothing is left out unsaid."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.passes.run import run_passes
from exporter.precision.quantise import (
    choose_products,
    quantise,
    quantised_weight,
    weight_scales,
)
from runtime.errors import ExportError

RNG = np.random.RandomState(0)
W = RNG.standard_normal((4, 3)).astype(np.float32)
X = RNG.standard_normal((64, 4)).astype(np.float32)


def quantised(model, scales, *nodes):
    record = []
    chosen = {f"node_{name}": name for name in nodes}
    result = run_passes(model.clone(), [quantise(chosen, scales, record)])
    proto = ir.to_proto(result)
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    return result, record


@pytest.fixture
def product(graph_of):
    return graph_of("g (float[N,4] x) => (float[N,3] y) { y = MatMul(x, w) }", w=W)


def test_each_channel_has_the_scale_of_its_largest_weight():
    weight = np.float32([[1, -2, 0], [0.5, 254, 0]])
    assert np.allclose(weight_scales(weight, 1), [1 / 127, 2.0, 1.0])
    assert np.allclose(weight_scales(weight, 0), [2 / 127, 2.0])
    numbers = quantised_weight(weight, weight_scales(weight, 1), 1)
    assert numbers.dtype == np.int8
    assert numbers.tolist() == [[127, -1, 0], [64, 127, 0]]


def test_the_weight_is_stored_as_int8_and_the_float_one_is_gone(product):
    model, record = quantised(product, {"x": 0.03}, "y")
    assert {name: value.dtype.name for name, value in model.graph.initializers.items()} == {
        "x.scale": "FLOAT", "int8_zero": "INT8", "w.int8": "INT8", "w.scale": "FLOAT",
    }  # fmt: skip
    (item,) = record
    assert (item.node, item.operator, item.weight, item.channels) == (
        "node_y", "MatMul", "w.int8", 3,
    )  # fmt: skip
    assert item.input_scale == pytest.approx(0.03)


def test_the_answer_is_that_of_rounded_inputs_and_weights(product, run_graph):
    model, _ = quantised(product, {"x": 0.03}, "y")
    scale = weight_scales(W, 1)
    x = np.clip(np.rint(X / np.float32(0.03)), -128, 127) * np.float32(0.03)
    right = x @ (quantised_weight(W, scale, 1) * scale)
    given = run_graph(model, x=X)["y"]
    assert np.allclose(given, right, atol=1e-4)
    assert np.sqrt(np.square(given - X @ W).mean() / np.square(X @ W).mean()) < 0.03


def test_a_value_that_several_products_read_is_quantised_once(graph_of, kinds_of):
    model = graph_of("""g (float[N,4] x) => (float[N,3] a, float[N,3] b) {
        a = MatMul(x, w)
        b = MatMul(x, v)
    }""", w=W, v=W * 2)  # fmt: skip
    result, record = quantised(model, {"x": 0.03}, "a", "b")
    assert sorted(kinds_of(result)) == [
        "DequantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul", "MatMul",
        "QuantizeLinear",
    ]  # fmt: skip
    assert len(record) == 2


def test_a_weight_that_two_products_share_is_stored_once(graph_of):
    model = graph_of("""g (float[N,4] x, float[N,4] z) => (float[N,3] a, float[N,3] b) {
        a = MatMul(x, w)
        b = MatMul(z, w)
    }""", w=W)  # fmt: skip
    result, _ = quantised(model, {"x": 0.03, "z": 0.03}, "a", "b")
    names = [name for name in result.graph.initializers if name.startswith("w")]
    assert names == ["w.int8", "w.scale"]


def test_a_weight_that_something_else_reads_stays_there_too(graph_of):
    model = graph_of("""g (float[N,4] x) => (float[N,3] a, float[4,3] b) {
        a = MatMul(x, w)
        b = Neg(w)
    }""", w=W)  # fmt: skip
    result, _ = quantised(model, {"x": 0.03}, "a")
    assert "w" in result.graph.initializers


@pytest.mark.parametrize(
    ("text", "shape", "axis", "channels"),
    [
        ("y = Gemm <transB = 1> (x, w)", (3, 4), 0, 3),
        ("y = Gemm(x, w)", (4, 3), 1, 3),
        ("y = MatMul(x, w)", (4, 3), 1, 3),
    ],
)
def test_channels_are_the_outputs_of_the_product(graph_of, run_graph, text, shape, axis, channels):
    weight = (
        RNG.standard_normal(shape).astype(np.float32) * np.float32(10.0) ** np.arange(3)[:, None]
        if axis == 0
        else RNG.standard_normal(shape).astype(np.float32) * 10.0 ** np.arange(3)
    )
    model = graph_of(f"g (float[N,4] x) => (float[N,3] y) {{ {text} }}", w=np.float32(weight))
    result, record = quantised(model, {"x": 0.03}, "y")
    assert record[0].channels == channels
    right, given = (run_graph(graph, x=X)["y"] for graph in (model, result))
    # Each output on its own scale is near: one scale for all would lose the small ones.
    miss = np.sqrt(np.square(given - right).mean(0) / np.square(right).mean(0))
    assert miss.max() < 0.05


def test_convolutions_are_quantised_by_their_first_axis(graph_of, run_graph):
    kernel = RNG.standard_normal((6, 1, 3, 3)).astype(np.float32)
    model = graph_of("g (float[N,1,8,8] x) => (float[N,6,6,6] y) { y = Conv(x, w) }", w=kernel)
    result, record = quantised(model, {"x": 0.03}, "y")
    assert record[0].channels == 6
    image = RNG.standard_normal((2, 1, 8, 8)).astype(np.float32)
    right, given = (run_graph(graph, x=image)["y"] for graph in (model, result))
    assert np.sqrt(np.square(given - right).mean() / np.square(right).mean()) < 0.03


def test_what_cannot_be_quantised_is_kept_with_the_reason(graph_of):
    model = graph_of("""g (float[N,4,4] x) => (float[N,4,4] s, float[N,4,3] y, float[N,4,3] z) {
        s = MatMul(x, x)
        y = MatMul(x, w)
        z = MatMul(x, v)
    }""", w=W, v=W)  # fmt: skip
    choice = choose_products(model, ["z"], {"x": 1.0})
    assert list(choice.chosen) == ["node_y"]
    assert choice.kept["node_s"] == ("s", "its weight is no constant matrix")
    assert choice.kept["node_z"] == ("z", "kept by --keep")
    assert choose_products(model, [], {}).kept["node_y"] == ("y", "its input was not measured")


def test_quantising_nothing_is_an_error(product):
    with pytest.raises(ExportError, match="int8 quantised nothing"):
        quantised(product, {"x": 0.03})
