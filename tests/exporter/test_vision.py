"""Models of torchvision by name: published weights from the cache, a file, or by chance."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
import torch
from torchvision import models

from exporter.source import SourceRequest, load_source
from exporter.weights import file_sha256
from runtime.errors import ExportError, NotFound, TwinportError

NAME = "torchvision:shufflenet_v2_x0_5"
ENTRY = models.ShuffleNet_V2_X0_5_Weights.DEFAULT


def load(model=NAME, weights=None):
    return load_source(SourceRequest(model, weights))


def refused(error, *args):
    with pytest.raises(error) as caught:
        load(*args)
    assert isinstance(caught.value, TwinportError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty ``TORCH_HOME``; gives the folder that torch keeps checkpoints in."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def offline(monkeypatch):
    """Whatever is fetched goes to a port where nothing listens."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    # Whoever fetched something before has made one that does not look at these.
    monkeypatch.setattr(urllib.request, "_opener", None)


@pytest.fixture(scope="module")
def trained():
    """Weights that nobody published."""
    torch.manual_seed(7)
    return models.shufflenet_v2_x0_5().state_dict()


@pytest.fixture
def planted(cache, trained):
    """The file that ``DEFAULT`` names, in the cache."""
    file = cache / ENTRY.url.rpartition("/")[2]
    torch.save(trained, file)
    return file


def test_published_weights_come_from_the_cache_with_what_they_know(planted, trained, offline):
    for text in ("DEFAULT", "IMAGENET1K_V1", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"):
        source = load(NAME, Path(text))
        own = source.module.state_dict()
        assert all(torch.equal(own[name], value) for name, value in trained.items())
        assert source.checkpoint_sha256 == file_sha256(planted)
    assert (source.name, source.factory) == ("shufflenet_v2_x0_5", NAME)
    assert [f"{spec.name}:{spec}" for spec in source.inputs] == ["x:float32 [batch, 3, 224, 224]"]
    assert source.ranges == {"batch": (1, 16)}
    assert source.output_names == ("logits",)
    assert len(source.labels) == 1000
    assert source.labels[281] == "tabby"
    recipe = source.preprocessing
    assert (recipe.input, recipe.color, recipe.height, recipe.width) == ("x", "rgb", 224, 224)
    assert recipe.mean == (0.485, 0.456, 0.406)
    assert recipe.std == (0.229, 0.224, 0.225)
    assert recipe.short_side == 256
    assert not source.module.training


def test_weights_in_a_file_say_nothing_of_labels(tmp_path, trained, offline):
    torch.save({"state_dict": trained}, tmp_path / "mine.pth")
    source = load(NAME, tmp_path / "mine.pth")
    assert torch.equal(source.module.fc.weight, trained["fc.weight"])
    assert (source.labels, source.preprocessing) == (None, None)
    assert str(source.inputs[0]) == "float32 [batch, 3, 224, 224]"


def test_without_weights_the_values_are_by_chance_and_the_same_each_time(cache, offline):
    state = torch.get_rng_state()
    first, second = load(), load()
    assert first.state_sha256() == second.state_sha256()
    assert torch.equal(torch.get_rng_state(), state)
    assert (first.checkpoint_sha256, first.labels) == (None, None)


def test_a_backbone_is_not_fetched_where_weights_are_by_chance(cache, offline):
    source = load("torchvision:lraspp_mobilenet_v3_large")
    assert str(source.inputs[0]) == "float32 [batch, 3, 520, 520]"
    assert source.ranges == {"batch": (1, 2)}
    assert source.output_names == ()


def test_a_download_that_fails_is_one_line_and_leaves_nothing(cache, offline, capfd):
    text = refused(ExportError, NAME, Path("DEFAULT"))
    assert (
        f"the weights IMAGENET1K_V1 of shufflenet_v2_x0_5 cannot be fetched from {ENTRY.url}"
        in text
    )
    assert "Connection refused" in text
    assert f"put the file to {cache / ENTRY.url.rpartition('/')[2]}, or give one" in text
    assert list(cache.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_pickle_in_the_cache_runs_no_code(planted, tmp_path):
    class Malicious:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    torch.save({"fc.weight": Malicious()}, planted)
    text = refused(ExportError, NAME, Path("DEFAULT"))
    assert f"if {planted} is damaged, delete it" in text
    assert not (tmp_path / "ran").exists()


def test_a_cut_file_in_the_cache_is_named(planted):
    planted.write_bytes(planted.read_bytes()[:1000])
    assert f"if {planted} is damaged, delete it" in refused(ExportError, NAME, Path("DEFAULT"))


@pytest.mark.parametrize(
    ("model", "weights", "error", "text"),
    [
        ("torchvision:resnet81", None, NotFound, "torchvision has no model 'resnet81'; there are"),
        ("torchvision:", None, NotFound, "torchvision has no model ''"),
        (NAME, "IMAGENET1K_V9", NotFound, "there are IMAGENET1K_V1, DEFAULT"),
        (NAME, "gone.pth", NotFound, "weights gone.pth are no file, and shufflenet_v2_x0_5 has"),
        ("lenet5", "DEFAULT", NotFound, "weights DEFAULT do not exist"),
    ],
)
def test_what_is_not_there_says_what_is(model, weights, error, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert text in refused(error, model, Path(weights) if weights else None)


def test_weights_of_another_size_name_the_tensor(tmp_path, trained, offline):
    torch.save({**trained, "fc.weight": torch.ones(10, 1024)}, tmp_path / "mine.pth")
    text = refused(ExportError, NAME, tmp_path / "mine.pth")
    assert "'fc.weight' in mine.pth has shape [10, 1024]; the module wants [1000, 1024]" in text
