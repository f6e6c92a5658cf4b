"""Sources that take pixels: what they are asked for, and what they are refused for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporter.layers import CLASSES
from exporter.pipeline import ExportRequest, export_model
from exporter.preprocess.source import load_as_exported, load_prepared, with_pixels
from exporter.preprocess.words import words_from_text
from exporter.source import SourceRequest
from runtime.errors import InvalidInput
from runtime.golden import read_golden
from runtime.tensors import spec_from_text


class Net(nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x, **more):
        return self.head(self.conv(x).relu().mean((2, 3)))


class Two(nn.Module):
    def forward(self, left, right):
        return left.mean((2, 3)) + right.mean((2, 3))


def prepared(source_of, text, spec="x:float32[batch,3,24,24]", *more, module=None, **ranges):
    source = source_of(module or Net(), spec, *more)
    return with_pixels(source, words_from_text(text), ranges)


def test_pictures_of_any_size_are_taken_where_they_are_resized(source_of):
    source = prepared(source_of, "resize=24,mean=0.5,std=0.25")
    (spec,) = source.inputs
    assert (spec.dtype, spec.shape) == ("uint8", ("batch", "height", "width", 3))
    assert source.ranges == {"height": (1, 4096), "width": (1, 4096)}
    assert source.values == {"x": (0, 256)}
    own = source.preprocessing
    assert (own.done_by, own.color, own.height, own.width) == ("artifact", "rgb", 24, 24)


def test_without_a_resize_pictures_have_the_models_size(source_of):
    source = prepared(source_of, "scale=1/255")
    assert source.inputs[0].shape == ("batch", 24, 24, 3)
    free = prepared(source_of, "scale=1/255", "x:float32[n,3,h,w]")
    assert free.inputs[0].shape == ("n", "h", "w", 3)


def test_ranges_of_the_picture_are_taken_and_one_size_is_fixed(source_of):
    source = prepared(source_of, "resize=24", height=(8, 64), width=(30, 30))
    assert source.inputs[0].shape == ("batch", "height", 30, 3)
    assert source.ranges == {"height": (8, 64)}


def test_means_in_the_words_scale_are_kept_for_pixels_of_zero_to_one(source_of):
    source = prepared(source_of, "scale=1,mean=127.5,std=51")
    assert source.preprocessing.mean == pytest.approx((0.5,))
    assert source.preprocessing.std == pytest.approx((0.2,))
    given = torch.full((1, 24, 24, 3), 178, dtype=torch.uint8)
    image = source.module.preprocess(given)
    assert image.flatten()[0].item() == pytest.approx((178 - 127.5) / 51, rel=1e-6)


def test_another_input_keeps_its_axes_names(source_of):
    source = prepared(
        source_of, "resize=8,input=left", "left:float32[batch,3,8,8]",
        "right:float32[batch,3,height,9]", module=Two(),
    )  # fmt: skip
    assert source.inputs[0].shape == ("batch", "pixel_height", "width", 3)
    assert source.inputs[1].shape == ("batch", 3, "height", 9)


@pytest.mark.parametrize(
    ("text", "spec", "said"),
    [
        ("auto", "x:float32[b,3,24,24]", "'net' does not say how a picture becomes its input; s"),
        ("resize=32", "x:float32[b,3,24,24]", "makes pictures 32x32; input 'x' has height 24"),
        ("resize=24x30", "x:float32[b,3,24,24]", "makes pictures 24x30; input 'x' has width 24"),
        ("resize=24", "x:float32[b,4,24,24]", r"float32 \[batch, 1 or 3 channels, height, width\]"),
        ("resize=24", "x:int64[b,3,24,24]", r"the model takes x int64"),
        ("resize=24,input=y", "x:float32[b,3,24,24]", "wants the input 'y' as float32"),
        ("mean=1:2:3", "x:float32[b,1,24,24]", "has 3 means and 1 deviations; input 'x' has 1 ch"),
    ],
)
def test_words_that_do_not_fit_the_model_are_refused_in_one_line(source_of, text, spec, said):
    with pytest.raises(InvalidInput, match=said) as caught:
        prepared(source_of, text, spec)
    assert "\n" not in str(caught.value)


def test_of_two_pictures_one_must_be_named(source_of):
    specs = ("left:float32[b,3,8,8]", "right:float32[b,3,8,8]")
    with pytest.raises(InvalidInput, match="add input=NAME, one of left, right"):
        prepared(source_of, "resize=8", *specs, module=Two())
    source = prepared(source_of, "resize=8,input=right", *specs, module=Two())
    assert [spec.dtype for spec in source.inputs] == ["float32", "uint8"]


@pytest.mark.parametrize(
    ("ranges", "said"),
    [({"depth": (1, 2)}, "the axis 'depth'"), ({"height": (0, 9)}, "wanted 1 <= low <= high")],
)
def test_ranges_that_no_picture_has_are_refused(source_of, ranges, said):
    with pytest.raises(InvalidInput, match=said):
        prepared(source_of, "resize=24", **ranges)


def test_a_range_of_the_picture_comes_through_the_request():
    request = SourceRequest("lenet5", ranges={"height": (8, 40), "batch": (1, 8)})
    source = load_prepared(request, words_from_text("auto"))
    assert source.ranges == {"batch": (1, 8), "height": (8, 40), "width": (1, 4096)}
    with pytest.raises(InvalidInput, match="--range names the axis 'height'"):
        load_prepared(request, None)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """LeNet-5 that takes pictures; leave it as it is."""
    folder = tmp_path_factory.mktemp("pixels") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TWINPORT_DATA", raising=False)
        patch.chdir(folder.parent)
        return export_model(
            ExportRequest(SourceRequest("lenet5"), folder, preprocess=words_from_text("auto"))
        )


def test_the_proof_begins_at_the_pixels(pixels, lenet):
    proof = pixels.manifest.proof
    assert (proof.verdict, proof.truth, proof.batchable) == ("passed", "float64", True)
    assert {item.kind for item in proof.judgements} == {
        "real", "random", "zeros", "constant", "large",
    }  # fmt: skip
    assert set(proof.axis_sizes) == {"height", "width"}
    assert proof.labels.agreeing == proof.labels.samples == 1797
    assert pixels.manifest.source.state_sha256 == lenet.manifest.source.state_sha256


def test_the_evidence_holds_pixels(pixels):
    golden = read_golden(pixels.folder / "golden.safetensors")
    assert {case.arrays()["image"].dtype.name for case in golden.cases} == {"uint8"}
    real = next(case for case in golden.cases if case.kind == "real")
    assert real.arrays()["image"].shape[1:] == (28, 28, 1)
    white = next(case for case in golden.cases if case.kind == "large")
    assert white.arrays()["image"].min() == 255


def test_the_models_own_nodes_and_weights_are_called_as_without_it(pixels, lenet):
    own = {origin.module for origin in lenet.manifest.module_map.values()}
    both = {origin.module for origin in pixels.manifest.module_map.values()}
    assert both - own == {"", "preprocess"}
    one, two = (onnx.load(item.folder / "model.onnx").graph for item in (pixels, lenet))
    assert {t.name for t in two.initializer if "." in t.name} <= {t.name for t in one.initializer}
    first = next(node for node in one.node if node.input[0] == "image" and node.op_type != "Shape")
    assert first.op_type == "Cast"  # TensorRT takes uint8 nowhere else
    assert any("Preprocess" in item.value for item in first.metadata_props if item.key == CLASSES)


def test_a_fault_in_the_preprocessing_fails_the_proof(tmp_path, monkeypatch):
    """One level of the mean, of which the model's own proof would see nothing."""
    from exporter import pipeline

    def spoiled(model, passes):
        model = run_passes(model, passes)
        value = model.graph.initializers["preprocess.mean"]
        array = value.const_value.numpy() + np.float32(1 / 255)
        value.const_value = pipeline.ir.Tensor(array, name=value.name)
        return model

    run_passes = pipeline.run_passes
    monkeypatch.setattr(pipeline, "run_passes", spoiled)
    written = export_model(
        ExportRequest(SourceRequest("lenet5"), tmp_path / "r", preprocess=words_from_text("auto"))
    )
    assert written.manifest.proof.verdict == "failed"


def test_a_users_net_takes_pixels_and_other_inputs(tmp_path, export_net):
    written = export_net(
        tmp_path / "repository", "Pictured", "image:float32[batch,3,16,16]",
        "shift:float32[batch,2]", preprocess=words_from_text("resize=20,crop=16,std=0.5"),
        ranges={"batch": (1, 8)},
    )  # fmt: skip
    proof = written.manifest.proof
    assert proof.verdict == "passed"
    assert [str(spec) for spec in written.manifest.inputs] == [
        "uint8 [batch, height, width, 3]", "float32 [batch, 2]",
    ]  # fmt: skip
    assert spec_from_text("shift:float32[batch,2]") in written.manifest.inputs


def test_published_weights_of_torchvision_bring_their_own_record(tmp_path, monkeypatch):
    from torchvision import models

    weights = models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(models.shufflenet_v2_x0_5().state_dict(), folder / weights.url.rpartition("/")[2])
    request = SourceRequest("torchvision:shufflenet_v2_x0_5", Path("DEFAULT"))
    source = load_prepared(request, words_from_text("auto"))
    assert source.inputs[0].shape == ("batch", "height", "width", 3)
    recipe, own = weights.transforms(), source.preprocessing
    assert [own.short_side] == recipe.resize_size
    assert [own.height, own.width] == recipe.crop_size * 2
    assert (list(own.mean), list(own.std)) == (recipe.mean, recipe.std)
    pixels = torch.randint(0, 256, (1, 300, 411, 3), dtype=torch.uint8)
    prepared = recipe(pixels.permute(0, 3, 1, 2).float() / 255)
    by_graph = source.module.preprocess(pixels)
    np.testing.assert_allclose(by_graph, prepared, rtol=0, atol=1e-4)


def test_a_version_is_loaded_again_as_it_was_exported(pixels):
    manifest = pixels.manifest
    request = SourceRequest("lenet5", inputs=manifest.inputs, ranges=manifest.ranges)
    again = load_as_exported(request, manifest.preprocessing)
    assert (again.inputs, again.ranges) == (manifest.inputs, manifest.ranges)
    given = torch.randint(0, 256, (2, 40, 20, 1), dtype=torch.uint8)
    first = load_prepared(SourceRequest("lenet5"), words_from_text("auto"))
    assert torch.equal(again.module(image=given), first.module(image=given))
    assert load_as_exported(SourceRequest("lenet5"), None).pixels is None


def test_layers_are_proved_behind_the_preprocessing(pixels, run):
    code, out, err = run("parity", pixels.folder.parent, "--layers")
    assert code == 0, err
    assert "preprocess" in out
    assert "fc3" in out
