"""An opaque node is read by its contract, and what is not in it is said by name."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from exporter.experts.node import moe_nodes, read_node
from runtime.errors import ExportError


def node_of(layer, **changed):
    (node,) = moe_nodes(layer.model())
    for name, value in changed.items():
        node.attributes[name] = ir.convenience.convert_attribute(name, value)
    return node


def test_weights_are_the_modules_own_by_name_and_expert(layer_of):
    layer = layer_of()
    moe = read_node(node_of(layer))
    assert list(moe.weights) == ["up", "up_bias", "down", "down_bias"]
    np.testing.assert_array_equal(moe.weights["down"][3].array, layer.arrays["down"][3])
    assert moe.weights["up"][2].name == "blocks.0.moe.experts.2.up"
    assert (moe.width, moe.hidden, moe.rank, moe.gated) == (5, 6, 2, False)
    assert moe.weight_bytes == sum(array.nbytes for array in layer.arrays.values())


def test_a_stored_gate_and_up_are_two_halves_gate_first(layer_of):
    layer = layer_of(names=("gate_up", "down"), stacked=True, activation="silu")
    moe = read_node(node_of(layer))
    np.testing.assert_array_equal(moe.weights["gate"][1].array, layer.arrays["gate_up"][1, :6])
    np.testing.assert_array_equal(moe.weights["up"][1].array, layer.arrays["gate_up"][1, 6:])
    assert moe.weights["up"][1].name == "blocks.0.moe.gate_up.1.up"
    assert moe.gated


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"k": 5}, "chooses 5 of 4 experts"),
        ({"activation": "mish"}, "activation 'mish'; wanted one of relu, gelu"),
        ({"normalise": "max"}, "normalise 'max'; wanted one of softmax, sum, none"),
        ({"weights": ["up", "down"]}, "16 weights for 4 experts of up, down; wanted 8"),
        ({"weights": ["up", "up_bias", "down", "b"]}, "of up, up_bias, down, b; wanted 16, of"),
        ({"weights": ["gate", "gate_bias", "down", "down_bias"]}, "wanted up and down"),
        ({"weights": ["up", "down_bias", "down", "up_bias"]}, r"shape \[6\]; wanted \[5\]"),
    ],
)
def test_a_node_that_is_not_as_agreed_is_refused(layer_of, changed, said):
    with pytest.raises(ExportError, match=f"layer 'blocks.0.moe'.*{said}"):
        read_node(node_of(layer_of(), **changed))


def test_stacked_weights_are_as_many_as_the_experts(layer_of):
    with pytest.raises(ExportError, match=r"'up' of layer 'blocks.0.moe' has 4 parts for 3"):
        read_node(node_of(layer_of(stacked=True), experts=3))


def test_tokens_have_two_or_three_axes(layer_of):
    node = node_of(layer_of())
    node.inputs[0].shape = ir.Shape(["a", "b", "c", 5])
    with pytest.raises(ExportError, match=r"wanted \[tokens, width\] or \[rows, tokens, width\]"):
        read_node(node)


def test_weights_are_float32(layer_of):
    layer = layer_of()
    layer.arrays = {name: array.astype(np.float64) for name, array in layer.arrays.items()}
    with pytest.raises(ExportError, match="is float64; wanted float32"):
        read_node(node_of(layer))
