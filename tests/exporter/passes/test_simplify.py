"""Shorter patterns keep the numbers, and the names and modules of what gives the values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.layers import scopes_of
from exporter.passes.fuse_batchnorm import fuse_batchnorm
from exporter.passes.run import run_passes
from exporter.passes.simplify import simplify


def test_two_transposes_are_one_that_has_the_seconds_name_and_module(model_of, answers):
    model = model_of(
        "net (float[n,3,4] x) => (float y) { a = Transpose <perm = [1, 0, 2]> (x) "
        "b = Transpose <perm = [0, 2, 1]> (a) y = Neg (b) }",
        {"a": "one", "b": "two", "y": "three"},
    )
    x = np.random.RandomState(0).standard_normal((2, 3, 4)).astype(np.float32)
    (before,) = answers(model, x=x)
    first, second = run_passes(model, [simplify]).graph
    assert (first.op_type, first.name, scopes_of(first)[-1]) == ("Transpose", "node_b", "two")
    assert (second.name, scopes_of(second)[-1]) == ("node_y", "three")
    np.testing.assert_array_equal(answers(model, x=x)[0], before)


def test_a_normalisation_is_not_its_business(model_of):
    ones = np.ones(2, np.float32)
    model = model_of(
        "net (float[n,2,4,4] x) => (float y) { c = Conv (x, w) "
        "y = BatchNormalization (c, g, b, m, v) }",
        w=np.full((2, 2, 1, 1), 2, np.float32), g=ones, b=2 * ones, m=3 * ones, v=4 * ones,
    )  # fmt: skip
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert simplify(model)[1] is False
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert fuse_batchnorm(model)[1] is True


@pytest.mark.parametrize("factory", ["Attention", "Lstm"])
def test_a_modules_graph_has_one_name_a_node_and_a_module_for_each(source_of, factory):
    import torch

    from exporter.graph import onnx_from_module
    from exporter.layers import module_map

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.TransformerEncoderLayer(16, 4, batch_first=True)

        def forward(self, x):
            return self.layer(x)

    class Lstm(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.LSTM(16, 8, batch_first=True)

        def forward(self, x):
            return self.layer(x)[0]

    module = {"Attention": Attention, "Lstm": Lstm}[factory]()
    model = onnx_from_module(source_of(module, "x:float32[batch,5,16]"))
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    values = {str(value.name) for node in model.graph for value in node.outputs if value.name}
    origins = module_map(model)
    assert set(origins) == values
    assert any(origin.module.startswith("layer") for origin in origins.values())
