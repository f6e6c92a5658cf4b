"""Layers of real engines and the torch modules that they come from."""

from __future__ import annotations

import onnx
import pytest

from exporter.engine.layers import FILE_NAME, network_to_text, read_network
from exporter.engine.network import DTYPES
from exporter.engine.view import _DTYPES as VIEWED
from exporter.engine.view import view_of_network
from exporter.summary import graph_to_look_at

EXPERT_LAYERS = ("blocks.0.moe", "blocks.1.moe", "blocks.2.moe")


@pytest.fixture(scope="module")
def lenet_network(lenet_engine):
    return read_network(lenet_engine.folder / FILE_NAME)


@pytest.fixture(scope="module")
def moe_network(moe):
    return read_network(moe.engine.folder / FILE_NAME)


def test_every_module_of_lenet_has_its_layers(lenet, lenet_network):
    by_module = {}
    for layer in lenet_network.layers:
        by_module.setdefault(layer.module, []).append(layer.kind)
    assert set(by_module) == {origin.module for origin in lenet.manifest.module_map.values()}
    assert by_module["conv1"] == ["CONVOLUTION"]
    assert by_module["pool2"] == ["POOLING"]
    assert sorted(by_module["fc3"]) == [
        "CONSTANT", "CONSTANT", "ELEMENTWISE", "MATRIX_MULTIPLY", "SHUFFLE",
    ]  # fmt: skip
    classes = {layer.module: layer.module_class for layer in lenet_network.layers}
    assert classes["fc1"] == "torch.nn.modules.linear.Linear"


def test_two_layers_of_one_node_are_told_apart_from_its_neighbour(lenet_network):
    """The second layer of ``node_linear`` is called ``node_linear_1``, which is a node, too."""
    layers = {layer.name: layer for layer in lenet_network.layers}
    assert layers["node_linear_1"].node == "node_linear"
    assert layers["node_linear_1"].module == "fc1"
    assert {layer.module for layer in layers.values() if layer.node == "node_linear_1"} == {"fc2"}


def test_the_ends_are_those_of_the_manifest(lenet, lenet_network):
    assert [tensor.name for tensor in lenet_network.inputs] == ["image"]
    assert lenet_network.inputs[0].shape == (-1, 1, 32, 32)
    assert lenet_network.outputs == ("logits",)


def test_all_nodes_of_the_expert_layers_are_in_their_module(moe, moe_network):
    for path in EXPERT_LAYERS:
        named = [layer for layer in moe_network.layers if (layer.node or "").startswith(f"{path}/")]
        assert len(named) > 20
        assert {layer.module for layer in named} == {path}
        assert {layer.module_class for layer in named} == {"models.moe.MoELayer"}
        kinds = {layer.kind for layer in named}
        assert {"TOPK", "SOFTMAX", "SCATTER", "MATRIX_MULTIPLY"} <= kinds


def test_every_layer_has_a_module(lenet_network, moe_network):
    for network in (lenet_network, moe_network):
        placed = sum(layer.module is not None for layer in network.layers)
        assert placed / len(network.layers) == 1.0


def test_all_modules_of_the_mixture_appear(moe, moe_network):
    modules = {origin.module for origin in moe.manifest.module_map.values()}
    assert {layer.module for layer in moe_network.layers} == modules


def test_the_count_of_tokens_keeps_its_type_and_shape(moe_network):
    made = {tensor.name: tensor for layer in moe_network.layers for tensor in layer.outputs}
    assert made["expert_load"].dtype == "int32"
    assert made["expert_load"].shape == (-1, 3, 8)


def test_the_record_is_read_back_as_it_was(moe_network, tmp_path):
    (tmp_path / FILE_NAME).write_text(network_to_text(moe_network))
    assert read_network(tmp_path / FILE_NAME) == moe_network


def test_every_type_of_the_library_is_in_both_tables(rtx):
    members = set(rtx.api.DataType.__members__)
    assert members <= set(DTYPES)
    assert set(DTYPES.values()) == set(VIEWED)


def test_the_view_is_a_graph_with_a_node_a_layer(moe, moe_network):
    path = moe.engine.folder / "view.onnx"
    assert graph_to_look_at(moe.engine.folder / "model.engine") == path
    graph = onnx.load(path).graph
    assert len(graph.node) == len(moe_network.layers)
    assert {node.domain for node in graph.node} == {"tensorrt_rtx"}
    assert not graph.initializer
    first = next(node for node in graph.node if node.op_type == "Convolution")
    said = {item.name: item.s.decode() for item in first.attribute}
    assert said == {"module": "stem.0", "class": "torch.nn.modules.conv.Conv2d",
                    "node": "node_conv2d", "shape": "float32 [-1, 16, 28, 28]"}  # fmt: skip


def test_the_views_nodes_come_after_what_they_use(moe_network):
    """The parser writes constants after the layers that use them."""
    known = {tensor.name for tensor in moe_network.inputs}
    for node in view_of_network(moe_network, "x").graph.node:
        assert set(node.input) <= known
        known.update(node.output)
