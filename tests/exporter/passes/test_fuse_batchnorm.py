"""A normalisation goes into what is before it: numbers, names and modules hold."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from exporter.layers import FUSED, module_map, scopes_of
from exporter.passes.fuse_batchnorm import fuse_batchnorm
from exporter.passes.run import run_passes

RANDOM = np.random.RandomState(0)


def floats(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def statistics(channels):
    return {
        "bn__g": floats(channels), "bn__b": floats(channels), "bn__m": floats(channels),
        "bn__v": np.abs(floats(channels)) + 0.5,
    }  # fmt: skip


NORM = "y = BatchNormalization <epsilon: float = 0.01> (c, bn__g, bn__b, bn__m, bn__v)"
MODULES = {"c": "conv", "y": "bn"}


def net(model_of, before, x="float[n, 4, 6, 6]", **initializers):
    text = f"net ({x} x) => (float y) {{ {before} {NORM} }}"
    return model_of(text, MODULES, **initializers, **statistics(6))


CASES = {
    "conv": ("c = Conv (x, conv__weight)", (6, 4, 3, 3), None),
    "with a bias": ("c = Conv (x, conv__weight, conv__bias)", (6, 4, 3, 3), 6),
    "in groups": ("c = Conv <group: int = 2> (x, conv__weight)", (6, 2, 3, 3), None),
    "transposed": ("c = ConvTranspose (x, conv__weight, conv__bias)", (4, 6, 3, 3), 6),
    "transposed in groups": (
        "c = ConvTranspose <group: int = 2> (x, conv__weight)", (4, 3, 3, 3), None,
    ),
    "linear": ("c = Gemm <transB: int = 1> (x, conv__weight, conv__bias)", (6, 4), 6),
    "linear the other way": ("c = Gemm <beta: float = 0.5> (x, conv__weight, conv__bias)",
                             (4, 6), 6),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_both_nodes(model_of, answers, case):
    before, shape, bias = CASES[case]
    given = {"conv__weight": floats(*shape)} | ({"conv__bias": floats(bias)} if bias else {})
    x = "float[n, 4]" if "linear" in case else "float[n, 4, 6, 6]"
    model = net(model_of, before, x, **given)
    array = floats(3, 4) if "linear" in case else floats(3, 4, 6, 6)
    (before_it,) = answers(model, x=array)
    (node,) = run_passes(model, [fuse_batchnorm]).graph
    (after_it,) = answers(model, x=array)
    np.testing.assert_allclose(after_it, before_it, rtol=1e-5, atol=1e-5)
    assert node.op_type in before


def test_the_node_keeps_the_convolutions_name_and_module_and_notes_the_other(model_of):
    model = net(model_of, "c = Conv (x, conv__weight)", conv__weight=floats(6, 4, 3, 3))
    model, changed = fuse_batchnorm(model)
    assert changed
    (node,) = model.graph
    assert node.name == "node_c"
    assert scopes_of(node) == ["", "conv"]
    assert node.outputs[0].name == "y"
    origin = module_map(model)["y"]
    assert (origin.module, origin.operator, origin.fused) == ("conv", "Conv", ("bn",))
    assert set(model.graph.initializers) == {"conv.weight", "conv.bias"}


def test_the_weights_are_rounded_once(model_of):
    weight = floats(6, 4, 3, 3)
    model = net(model_of, "c = Conv (x, conv__weight)", conv__weight=weight)
    given = {n: v.const_value.numpy().astype(float) for n, v in model.graph.initializers.items()}
    scale = given["bn.g"] / np.sqrt(given["bn.v"] + np.float64(np.float32(0.01)))
    fuse_batchnorm(model)
    fused = model.graph.initializers["conv.weight"].const_value.numpy()
    wanted = (weight.astype(float) * scale.reshape(-1, 1, 1, 1)).astype(np.float32)
    np.testing.assert_array_equal(fused, wanted)


@pytest.mark.parametrize(
    "text",
    [
        f"net (float[n,4,6,6] x) => (float y, float c) {{ c = Conv (x, conv__weight) {NORM} }}",
        f"net (float[n,4,6,6] x) => (float z) {{ c = Conv (x, conv__weight) {NORM} "
        "z = Add (y, c) }",
        "net (float[n,4,6,6] x) => (float z) { c = Conv (x, conv__weight) "
        f"d = Conv (x, conv__weight) {NORM} z = Add (y, d) }}",
        f"net (float[n,4,6,6] x, float[6,4,3,3] w) => (float y) {{ c = Conv (x, w) {NORM} }}",
        f"net (float[n,6,6,6] x) => (float y) {{ c = Relu (x) {NORM} }}",
    ],
    ids=["its value is an output", "its value is read", "its weights are shared",
         "its weights are an input", "no convolution"],
)  # fmt: skip
def test_left_alone_where_something_else_would_change(model_of, text):
    weights = {"conv__weight": floats(6, 4, 3, 3)} if "conv__weight" in text else {}
    model = model_of(text, MODULES, **weights, **statistics(6))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert fuse_batchnorm(model)[1] is False
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


class Normalised(nn.Module):
    """Normalisations after a convolution, after a transposed one, and after nothing."""

    def __init__(self):
        super().__init__()
        self.first = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 2, 2)
        self.last = nn.BatchNorm2d(2)
        for norm in (self.first, self.norm, self.last):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x):
        return self.last(self.up(torch.relu(self.norm(self.conv(torch.relu(self.first(x)))))))


def test_every_normalisation_of_a_module_goes_with_its_convolution(source_of):
    from exporter.graph import onnx_from_module

    model = onnx_from_module(source_of(Normalised(), "x:float32[batch,3,8,8]"))
    assert [node.op_type for node in model.graph] == [
        "BatchNormalization", "Relu", "Conv", "Relu", "ConvTranspose",
    ]  # fmt: skip
    origins = module_map(model)
    fused = {o.module: o.fused for o in origins.values() if o.fused}
    assert fused == {"conv": ("norm",), "up": ("last",)}


def test_onnxscript_fuses_too_and_loses_the_convolutions_module(source_of):
    """Why the pass is here: the library's own rule, and what becomes of the names."""
    from onnxscript import optimizer

    from exporter import graph

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "TIDY", ())
        model = graph.onnx_from_module(source_of(Normalised(), "x:float32[batch,3,8,8]"))
    optimizer.optimize_ir(model)
    convolution = next(node for node in model.graph if node.op_type == "Conv")
    assert sum(node.op_type == "BatchNormalization" for node in model.graph) == 1
    assert scopes_of(convolution)[-1] == "norm"
    assert convolution.name != "node_conv2d"
    assert FUSED not in convolution.metadata_props
