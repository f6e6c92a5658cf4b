"""The graph keeps names and axes, and says why a module cannot become one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from exporter.graph import example_inputs, onnx_from_module, specs_from_values
from exporter.layers import module_map
from exporter.source import SourceRequest, load_source
from runtime.errors import ExportError, InvalidInput
from runtime.manifest import ModuleOrigin
from runtime.tensors import spec_from_text

NETS = Path(__file__).parent / "nets.py"


def source_from(factory, *inputs, ranges=None, values=None):
    specs = tuple(spec_from_text(text) for text in inputs)
    return load_source(SourceRequest(f"{NETS}:{factory}", None, specs, ranges or {}, values or {}))


def shown(values):
    return [f"{spec.name}:{spec}" for spec in specs_from_values(values)]


@pytest.fixture(scope="module")
def attention():
    source = source_from("Attention", "x:float32[batch,seq,16]", ranges={"seq": (2, 128)})
    return onnx_from_module(source, 20)


def test_names_and_free_axes_are_those_of_the_user(attention):
    assert shown(attention.graph.inputs) == ["x:float32 [batch, seq, 16]"]
    assert shown(attention.graph.outputs) == ["output:float32 [batch, seq, 16]"]
    assert attention.opset_imports[""] == 20


@pytest.mark.parametrize(
    ("factory", "inputs", "outputs"),
    [
        ("Named", ["x:float32[n,4]"],
         ["logits:float32 [n, 3]", "best:int64 [n]", "more.share:float32 [n, 3]"]),
        ("Record", ["x:float32[n,4]"], ["logits:float32 [n, 3]", "hidden:float32 [n, 3]"]),
        ("Nested", ["x:float32[n,4]"],
         [f"{name}:float32 [n, 4]" for name in ("output_0", "output_1.0", "output_1.1.0")]),
        ("SameName", ["x:float32[n,4]"], ["x_out:float32 [n, 4]"]),
        ("TwoTables", ["x:float32[n,4]", "table:float32[m,3]"], ["output:float32 [n, m]"]),
        ("WithTotal", ["x:float32[n,4]"], ["output_0:float32 [n, 4]", "output_1:float32 []"]),
    ],
)  # fmt: skip
def test_outputs_are_named_by_the_structure_that_forward_returns(factory, inputs, outputs):
    model = onnx_from_module(source_from(factory, *inputs))
    assert shown(model.graph.outputs) == outputs


def test_fixed_axes_stay_fixed():
    model = onnx_from_module(source_from("Linear", "x:float32[8,4]"))
    assert shown(model.graph.inputs) == ["x:float32 [8, 4]"]


@pytest.mark.parametrize("opset", [18, 25])
def test_the_opset_is_the_one_asked_for(opset):
    model = onnx_from_module(source_from("Linear", "x:float32[n,4]"), opset)
    assert model.opset_imports[""] == opset


@pytest.mark.parametrize("opset", [17, 26, 0, -1])
def test_an_opset_that_is_not_shared_is_refused(opset):
    with pytest.raises(InvalidInput, match=f"opset {opset} is not supported; use 18 to 25"):
        onnx_from_module(source_from("Linear", "x:float32[n,4]"), opset)


@pytest.mark.parametrize(
    ("factory", "text", "said"),
    [
        ("Unconverted", "x:float32[n,4]", "torch.export cannot capture Unconverted: "),
        ("Steps", "x:float32[n,seq,8]",
         r"fixes the free axis 'seq' to 3 .*; use an .* or give that axis a number in --input"),
        ("Linear", "x:float32[n,5]",
         r"itself fails on x \[2, 5\] in module 'layer' \(Linear\): RuntimeError"),
    ],
)  # fmt: skip
def test_a_module_that_cannot_be_captured_is_one_line_and_no_noise(factory, text, said, capfd):
    with pytest.raises(ExportError, match=said) as caught:
        onnx_from_module(source_from(factory, text))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_complex_output_says_what_to_return_instead(source_of):
    class Spectrum(torch.nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x)

    with pytest.raises(ExportError, match=r"'output' is complex, .* torch.view_as_real"):
        onnx_from_module(source_of(Spectrum(), "x:float32[n,4]"))


def test_examples_give_every_free_axis_a_size_of_its_own_within_its_range(source_of):
    source = source_of(
        torch.nn.Identity(), "x:float32[a,b,c]", "k:int64[b]",
        ranges={"b": (5, 9), "c": (1, 2)}, values={"k": (7, 9)},
    )  # fmt: skip
    examples = example_inputs(source)
    assert tuple(examples["x"].shape) == (2, 5, 2)
    assert examples["k"].tolist() == [7] * 5


def test_the_module_map_names_module_and_class_of_every_value(attention):
    origins = module_map(attention)
    values = {value.name for node in attention.graph for value in node.outputs}
    assert values == set(origins)
    made = {(o.module, o.module_class) for o in origins.values()}
    kind = "torch.nn.modules.activation.MultiheadAttention"
    assert ("attention", kind) in made


def test_every_layer_of_lenet_is_mapped_to_what_it_became(lenet):
    origins = lenet.manifest.module_map
    by_module = {origin.module: origin for origin in origins.values() if origin.module}
    expected = {
        "conv1": "Conv", "relu1": "Relu", "pool1": "MaxPool", "conv2": "Conv", "relu2": "Relu",
        "pool2": "MaxPool", "flatten": "Reshape", "fc1": "Gemm", "relu3": "Relu", "fc2": "Gemm",
        "relu4": "Relu", "fc3": "Gemm",
    }  # fmt: skip
    assert {name: origin.operator for name, origin in by_module.items()} == expected
    assert by_module["fc3"].module_class == "torch.nn.modules.linear.Linear"
    proto = onnx.load(lenet.folder / "model.onnx")
    values = {name for node in proto.graph.node for name in node.output}
    assert set(origins) <= values


def test_each_mapped_value_is_what_the_torch_layer_gives(lenet):
    """Not only the names: the value at that place of the graph is the layer's output."""
    import onnxruntime

    source = load_source(SourceRequest("lenet5"))
    proto = onnx.load(lenet.folder / "model.onnx")
    origins = lenet.manifest.module_map
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in origins)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    image = torch.randn(3, 1, 32, 32)
    values = dict(zip(origins, session.run(None, {"image": image.numpy()}), strict=True))
    seen = {}
    for name, layer in source.module.named_children():
        layer.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    with torch.no_grad():
        source.module(image)
    for value, origin in origins.items():
        assert isinstance(origin, ModuleOrigin)
        np.testing.assert_allclose(values[value], seen[origin.module].numpy(), atol=1e-4, rtol=0)
