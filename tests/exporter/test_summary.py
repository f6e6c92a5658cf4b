"""A summary says what is in the file, and a damaged file is one line."""

from __future__ import annotations

import shutil

import pytest

from exporter.module_summary import layers_of
from exporter.source import SourceRequest, load_source
from exporter.summary import artifact_file, summary_from_path
from runtime.errors import ExportError, InvalidInput, NotFound


def test_a_version_is_summarised_with_its_manifest(lenet):
    for path in (lenet.folder, lenet.folder.parent, lenet.folder / "model.onnx"):
        summary = summary_from_path(path)
        assert summary.file == lenet.folder / "model.onnx"
        assert summary.bytes == summary.file.stat().st_size
        assert summary.opset == 20
        assert [str(spec) for spec in summary.inputs] == ["float32 [batch, 1, 32, 32]"]
        assert [spec.name for spec in summary.outputs] == ["logits"]
        assert summary.operators == {"Relu": 4, "Gemm": 3, "Conv": 2, "MaxPool": 2, "Reshape": 1}
        assert summary.parameters >= 61_706
        assert summary.manifest == lenet.manifest


def test_a_bare_file_has_no_manifest(linear, tmp_path):
    shutil.copy(linear.folder / "model.onnx", tmp_path / "net.onnx")
    assert summary_from_path(tmp_path / "net.onnx").manifest is None
    assert summary_from_path(tmp_path).file == tmp_path / "net.onnx"


def test_the_highest_version_is_shown_and_a_failed_one_where_there_is_no_other(linear, tmp_path):
    for place in ("both/2", "both/10", "both/failed/11", "bad/failed/3", "bad/failed/4"):
        shutil.copytree(linear.folder, tmp_path / place)
    assert artifact_file(tmp_path / "both") == tmp_path / "both" / "10" / "model.onnx"
    assert artifact_file(tmp_path / "bad") == tmp_path / "bad" / "failed" / "4" / "model.onnx"


@pytest.mark.parametrize("damage", ["garbage", "empty", "cut", "text"])
def test_a_damaged_file_is_one_line(linear, tmp_path, damage):
    whole = (linear.folder / "model.onnx").read_bytes()
    (tmp_path / "bad.onnx").write_bytes(
        {"garbage": bytes(range(256)) * 9, "empty": b"", "cut": whole[: len(whole) // 2],
         "text": b"hello, world\n"}[damage]
    )  # fmt: skip
    with pytest.raises(InvalidInput, match=r"bad.onnx is not an ONNX model: ") as caught:
        summary_from_path(tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "config.pbtxt"])
def test_the_texts_beside_a_model_are_refused_in_one_line(lenet, tmp_path, name):
    (beside,) = lenet.folder.parent.rglob(name)
    with pytest.raises(InvalidInput, match=rf"{name} is not an ONNX model: ") as caught:
        summary_from_path(beside)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.json", "net.pbtxt", "net.onnxtxt"])
def test_a_model_may_have_any_ending(linear, tmp_path, name):
    shutil.copy(linear.folder / "model.onnx", tmp_path / name)
    assert summary_from_path(tmp_path / name).opset == 20


def test_an_incomplete_version_is_named_and_another_one_offered(linear, tmp_path):
    shutil.copytree(linear.folder, tmp_path / "net" / "1")
    for number in (2, 3):
        (tmp_path / "net" / str(number)).mkdir()
    with pytest.raises(NotFound) as caught:
        summary_from_path(tmp_path / "net")
    assert str(caught.value) == (
        f"version 3 of {tmp_path / 'net'} is incomplete: it has neither manifest.json nor an "
        f".onnx file; look at another one: {tmp_path / 'net' / '1'}"
    )
    shutil.rmtree(tmp_path / "net" / "1")
    with pytest.raises(NotFound, match=r"version 3 of .* is incomplete: .* file; export it again$"):
        summary_from_path(tmp_path / "net")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"gone does not exist; give an .onnx file or REPOS"):
        summary_from_path(tmp_path / "gone")
    with pytest.raises(NotFound, match=r"holds no version and no .onnx file"):
        summary_from_path(tmp_path)


def test_lenet_is_shown_layer_by_layer():
    layers = layers_of(load_source(SourceRequest("lenet5")))
    shown = {layer.name: (layer.module_class, layer.shapes[0][1:], layer.parameters)
             for layer in layers}  # fmt: skip
    assert list(shown)[:3] == ["conv1", "relu1", "pool1"]
    assert shown["conv1"] == ("Conv2d", (6, 28, 28), 156)
    assert shown["pool2"] == ("MaxPool2d", (16, 5, 5), 0)
    assert shown["fc3"] == ("Linear", (10,), 850)
    assert sum(layer.parameters for layer in layers) == 61_706
    assert all(layer.trainable == layer.parameters for layer in layers)


def test_a_layer_that_is_called_twice_is_counted_once(source_of):
    from torch import nn

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.layer.bias.requires_grad_(False)

        def forward(self, x):
            return self.layer(self.layer(x))

    first, second = layers_of(source_of(Twice(), "x:float32[n,4]"))
    assert (first.parameters, first.trainable) == (20, 16)
    assert (second.name, second.parameters) == ("layer", 0)


def test_no_hook_is_left_behind_even_after_a_failure(source_of):
    from torch import nn

    source = source_of(nn.Linear(4, 2), "input:float32[n,5]")
    with pytest.raises(ExportError, match=r"the module fails on an example: .*check --input"):
        layers_of(source)
    assert not source.module._forward_hooks
