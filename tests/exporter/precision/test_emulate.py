"""The emulated graph rounds where the typed one does, and overflows where it does."""

from __future__ import annotations

import numpy as np

from exporter.precision.emulate import emulated
from exporter.precision.kinds import FLOATS
from exporter.precision.lower import lower_floats

FP16, BF16 = FLOATS["fp16"], FLOATS["bf16"]
X = np.random.RandomState(0).standard_normal((5, 4)).astype(np.float32)


def rounded(array, kind):
    return array.astype(kind.dtype.numpy()).astype(np.float32)


def emulation(model, kind, *nodes):
    typed, _ = lower_floats(kind, {f"node_{name}" for name in nodes})(model.clone())
    return emulated(typed, kind)


def test_every_lowered_value_is_rounded_to_the_bit(graph_of, run_graph):
    model = graph_of("""g (float[N,4] x) => (float[N,4] y) {
        h = Mul(x, w)
        y = Add(h, b)
    }""", w=np.float32([1.1, 2.3, 3.7, 0.9]), b=np.float32([0.1, 0.2, 0.3, 0.4]))  # fmt: skip
    for kind in (FP16, BF16):

        def low(array, kind=kind):
            return rounded(array, kind)

        w, b = low(np.float32([1.1, 2.3, 3.7, 0.9])), low(np.float32([0.1, 0.2, 0.3, 0.4]))
        right = low(low(low(X) * w) + b)
        given = run_graph(emulation(model, kind, "h", "y"), x=X)["y"]
        assert np.array_equal(given, right)


def test_nodes_that_stay_compute_in_float32(graph_of, run_graph):
    model = graph_of("""g (float[N,4] x) => (float[N,4] y) {
        h = Mul(x, w)
        y = Add(h, h)
    }""", w=np.float32([1.1, 2.3, 3.7, 0.9]))  # fmt: skip
    h = rounded(rounded(X, FP16) * rounded(np.float32([1.1, 2.3, 3.7, 0.9]), FP16), FP16)
    assert np.array_equal(run_graph(emulation(model, FP16, "h"), x=X)["y"], h + h)


def test_a_value_beyond_the_type_becomes_infinite_and_in_float32_it_would_not(graph_of, run_graph):
    model = graph_of("""g (float[N,4] x) => (float[N,4] y) {
        h = Mul(x, x)
        y = Div(h, x)
    }""")  # fmt: skip
    large = np.full((1, 4), 300.0, np.float32)
    assert np.isfinite(run_graph(model, x=large)["y"]).all()
    assert np.isinf(run_graph(emulation(model, FP16, "h", "y"), x=large)["y"]).all()
    assert np.isfinite(run_graph(emulation(model, BF16, "h", "y"), x=large)["y"]).all()
