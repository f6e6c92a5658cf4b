"""The inspector's JSON becomes a graph with modules.

The JSON here has the form that NVIDIA documents for TensorRT 11 and 10; no library wrote it.
"""

from __future__ import annotations

import json
import struct

import onnx
import pytest

from exporter.engine.layers import (
    FILE_NAME,
    EngineLayer,
    EngineNetwork,
    EngineTensor,
    network_to_text,
    read_network,
)
from exporter.look import engine_view
from exporter.look.engine_view import inspector_of, network_from_inspector, view_of_engine
from exporter.write import VIEW_FILE
from runtime.backends.plan import HEADER_BYTES
from runtime.cli import main
from runtime.errors import BackendUnavailable, RepositoryError


def tensor(name, shape, **said):
    return {"Name": name, "Location": "Device", "Dimensions": shape, **said}


def fused(*, eleven: bool):
    """Two layers: a convolution that took its ReLU in, and a product."""
    half = {"DataType": "Half", "Format": "Row major linear"} if eleven else {
        "Format/Datatype": "Row major linear FP16 format"}  # fmt: skip
    x, h, y = tensor("x", [-1, 1, 8, 8], **half), tensor("h", [-1, 4], **half), tensor("y", [-1, 2])
    y |= {"DataType": "Float"} if eleven else {"Format/Datatype": "Float"}
    layers = [
        {"Name": "conv + relu", "LayerType": "CaskConvolution", "Inputs": [x], "Outputs": [h],
         "Metadata": "[ONNX Layer: node_conv]\u001e[ONNX Layer: node_relu]"},
        {"Name": "__myl_Fc", "LayerType": "gemm", "Inputs": [h], "Outputs": [y],
         "Metadata": "[ONNX Layer: node_linear]"},
    ]  # fmt: skip
    ends = [{**x, "IOMode": "Input"}, {**y, "IOMode": "Output"}]
    return {"Layers": layers, **({"I/O Tensors": ends} if eleven else {"Bindings": ["x", "y"]})}


@pytest.fixture
def built():
    def layer(node, module, module_class):
        return EngineLayer(node, "KIND", (), (), module, module_class, node)

    return EngineNetwork(
        (),
        (layer("node_conv", "conv1", "Conv2d"), layer("node_relu", "relu1", "ReLU"),
         layer("node_linear", "fc", "Linear"), EngineLayer("added", "SHUFFLE", (), ())),
        (),
    )  # fmt: skip


@pytest.mark.parametrize("eleven", [True, False], ids=["TensorRT 11", "TensorRT 10"])
def test_a_fused_layer_has_the_modules_of_all_its_nodes(built, eleven):
    network = network_from_inspector(fused(eleven=eleven), built)
    first, second = network.layers
    assert (first.kind, first.module, first.module_class) == (
        "CaskConvolution", "conv1 + relu1", None
    )  # fmt: skip
    assert first.node == "node_conv + node_relu"
    assert (second.module, second.module_class, second.inputs) == ("fc", "Linear", ("h",))
    assert first.outputs == (EngineTensor("h", "float16", (-1, 4)),)
    assert second.outputs == (EngineTensor("y", "float32", (-1, 2)),)
    assert [item.name for item in network.inputs] == ["x"]
    assert network.outputs == ("y",)


def test_names_alone_are_layers_too(built):
    network = network_from_inspector({"Layers": ["conv + relu", "gemm"], "Bindings": []}, built)
    assert [layer.name for layer in network.layers] == ["conv + relu", "gemm"]


@pytest.mark.parametrize(
    "information",
    [{}, {"Layers": [{"LayerType": "gemm"}]}, {"Layers": [3]}, {"Layers": None},
     {"Layers": [], "I/O Tensors": [{"Name": "x"}]}],
)  # fmt: skip
def test_another_form_is_refused_in_one_line(information):
    with pytest.raises(RepositoryError, match="another form than TensorRT 10's or 11's") as said:
        network_from_inspector(information, None)
    assert "\n" not in str(said.value)


@pytest.fixture
def engine(tmp_path, built):
    """A file that begins as an engine does; nothing could run it."""
    file = tmp_path / "model.engine"
    file.write_bytes(b"ftrt" + bytes(12) + struct.pack("<Q", HEADER_BYTES) + bytes((11, 4, 0, 0)))
    (tmp_path / FILE_NAME).write_text(network_to_text(built))
    return file


class Answering:
    """In a backend's place: says what the test wants the inspector to say."""

    closed = False

    def information(self):
        return fused(eleven=True)

    def close(self):
        self.closed = True


def test_inspect_draws_and_lists_what_the_inspector_says(engine, tmp_path, monkeypatch, capsys):
    answering, drawn = Answering(), []
    monkeypatch.setattr(engine_view, "open_backend", lambda *_: answering)
    monkeypatch.setattr(
        "exporter.look.netron_picture.draw", lambda graph, pictures: drawn.append(onnx.load(graph))
    )
    assert main(["inspect", str(engine), "--inspector", "--svg", str(tmp_path / "net.svg")]) == 0
    assert answering.closed
    assert "2 layers as the library fused them" in (out := capsys.readouterr().out)
    assert "conv1 + relu1" in out
    first, second = drawn[0].graph.node
    assert (first.op_type, second.op_type) == ("CaskConvolution", "gemm")
    assert {item.name: item.s for item in first.attribute}["module"] == b"conv1 + relu1"
    assert main(["inspect", str(engine), "--inspector", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inspector"] == fused(eleven=True)


@pytest.mark.parametrize(("words", "allowed"), [((), False), (("--engine-code", "allow"), True)])
def test_code_that_an_engine_brings_runs_where_it_is_allowed(engine, monkeypatch, words, allowed):
    given = []
    monkeypatch.setattr(
        engine_view, "open_backend", lambda *told: given.append(told[2]) or Answering()
    )
    assert main(["inspect", str(engine), "--inspector", *words]) == 0
    assert given[0].engine_code is allowed


def test_without_the_inspector_the_layers_kept_at_build_time_are_drawn(
    engine, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(engine_view, "open_backend", lambda *_: pytest.fail("was loaded"))
    monkeypatch.setattr(
        "exporter.look.netron_picture.draw", lambda graph, pictures: drawn.append(graph)
    )
    words = ["inspect", str(engine), "--png", str(tmp_path / "net.png")]
    assert main(words) == 1, "there is no view yet"
    (tmp_path / VIEW_FILE).write_bytes(view_of_engine(engine, read_network(tmp_path / FILE_NAME)))
    assert main(words) == 0
    assert drawn == [tmp_path / VIEW_FILE]


def test_an_engine_that_does_not_load_here_is_one_line(engine, monkeypatch, capsys):
    def refuse(*_):
        raise BackendUnavailable("an engine of TensorRT runs on a GPU only: there is none")

    monkeypatch.setattr(engine_view, "open_backend", refuse)
    assert main(["inspect", str(engine), "--inspector"]) == 1
    assert capsys.readouterr() == (
        "", "twinport: an engine of TensorRT runs on a GPU only: there is none\n"
    )  # fmt: skip


def test_a_cut_engine_is_refused_before_anything_is_loaded(engine, monkeypatch):
    engine.write_bytes(engine.read_bytes()[:20])
    monkeypatch.setattr(engine_view, "open_backend", lambda *_: pytest.fail("was loaded"))
    with pytest.raises(RepositoryError, match=r"model\.engine"):
        inspector_of(engine)
