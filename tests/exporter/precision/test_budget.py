"""Modules over their error budget stay fp32, the worst first, and no more than it takes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from exporter.precision.budget import MARGIN_DB, within_budget
from exporter.precision.choose import Choice
from exporter.precision.noise import Meter, in_db
from runtime.errors import ExportError
from runtime.precision import RULES

X = np.random.RandomState(0).standard_normal((64, 4)).astype(np.float32)
CHAIN = """g (float[N,4] x) => (float[N,4] y) {
    a = Mul(x, one)
    b = Mul(a, one)
    y = Mul(b, one)
}"""
RULE = replace(RULES["fp16"], snr_db=30.0)
ALL = Choice({f"node_{name}": name for name in ("a", "b", "y")})


@pytest.fixture
def model(graph_of):
    return graph_of(CHAIN, one=np.float32(1))


def noisy(model, factors):
    """A variant in which the chosen nodes are off by a share of their values."""

    def variant(choice):
        copy = model.clone()
        for node in copy.graph:
            module = str(node.name).removeprefix("node_")
            off = 1 + (factors[module] if str(node.name) in choice.chosen else 0.0)
            value = node.inputs[1]
            made = np.float32(off)
            new = type(value)(name=f"{module}.off", const_value=_tensor(made, f"{module}.off"))
            new.type, new.shape = value.type, value.shape
            copy.graph.register_initializer(new)
            node.replace_input_with(1, new)
        return copy

    return variant


def _tensor(array, name):
    import onnx_ir as ir

    return ir.tensor(np.asarray(array), name=name)


def test_a_graph_within_the_budget_keeps_nothing(model):
    meter = Meter(model, [{"x": X}])
    found = within_budget(ALL, meter, noisy(model, {"a": 1e-3, "b": 1e-3, "y": 1e-3}), RULE)
    assert found.choice.kept == {}
    assert found.ratio_db == pytest.approx(-20 * np.log10(3e-3), abs=0.1)


def test_the_one_module_that_is_too_noisy_stays_and_says_how_noisy_it_is(model):
    meter = Meter(model, [{"x": X}])
    found = within_budget(ALL, meter, noisy(model, {"a": 1e-3, "b": 0.1, "y": 1e-3}), RULE)
    assert list(found.choice.chosen) == ["node_a", "node_y"]
    module, reason = found.choice.kept["node_b"]
    assert module == "b"
    assert reason == "over its error budget: 20.0 dB in fp16 alone, its share is 37.8 dB"
    assert found.ratio_db >= RULE.snr_db + MARGIN_DB


def test_the_worst_ones_are_kept_until_the_rest_fits(model):
    meter = Meter(model, [{"x": X}])
    found = within_budget(ALL, meter, noisy(model, {"a": 0.02, "b": 0.1, "y": 1e-3}), RULE)
    assert set(found.choice.kept) == {"node_b"}
    found = within_budget(ALL, meter, noisy(model, {"a": 0.05, "b": 0.1, "y": 1e-3}), RULE)
    assert set(found.choice.kept) == {"node_a", "node_b"}


def test_nothing_within_the_budget_is_an_error_that_names_the_best(model):
    meter = Meter(model, [{"x": X}])
    with pytest.raises(ExportError, match=r"no module can be fp16 .* 33 dB; the best alone, 'y'"):
        within_budget(ALL, meter, noisy(model, {"a": 0.2, "b": 0.3, "y": 0.1}), RULE)


def test_nothing_that_could_be_lowered_is_an_error_with_the_reason(model):
    meter = Meter(model, [{"x": X}])
    nothing = Choice({}, {"node_a": ("a", "kept by --keep")})
    with pytest.raises(ExportError, match="nothing of the graph can be fp16: kept by --keep"):
        within_budget(nothing, meter, noisy(model, {}), RULE)


def test_what_overflows_is_infinitely_noisy(model):
    meter = Meter(model, [{"x": X}])
    noise = meter.noise_of(noisy(model, {"a": np.inf, "b": 0, "y": 0})(ALL))
    assert noise == {"y": float("inf")}
    assert in_db(noise["y"]) == float("-inf")


def test_rows_that_went_to_other_experts_are_left_out(graph_of):
    text = """g (float[N,4] x) => (float[N,4] y, int64[N] expert_load) {
        y = Mul(x, f)
        expert_load = ArgMax <axis = 1, keepdims = 0> (y)
    }"""
    right = graph_of(text, f=np.float32([1, 1, 1, 1]))
    other = graph_of(text, f=np.float32([1.001, 1.001, 1.001, 40]))
    calls = [{"x": np.abs(X)}]
    # Where the last one was the largest already, both choose it; of those 40 is the error.
    noise = Meter(right, calls).noise_of(other)["y"]
    assert 0 < noise < 39**2
    assert Meter(right, calls).noise_of(right) == {"y": 0.0}
