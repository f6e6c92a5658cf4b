"""Ten architectures of torchvision from a file of weights to a proved version."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision import models

from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.source import SourceRequest
from runtime.tensors import spec_from_text

ARCHITECTURES = {
    "resnet18": (),
    "densenet121": (),
    "googlenet": (),
    "regnet_y_400mf": (),
    "mobilenet_v3_small": (),
    "efficientnet_b0": (),
    "convnext_tiny": (),
    "vit_b_32": (),
    "swin_t": (),
    # Two outputs by name, and pictures of any size.
    "lraspp_mobilenet_v3_large": ("input:float32[batch,3,height,width]",),
}
RANGES = {"height": (64, 256), "width": (64, 256)}


def weights_of(name: str, folder: Path) -> Path:
    """A file of seeded weights through which the picture arrives at the head.

    As torchvision begins them some heads are zero, and some nets so faint that all pictures
    give the same; a proof of those proves nothing.
    """
    torch.manual_seed(0)
    given = {"weights_backbone": None} if name.startswith("lraspp") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of googlenet, about the way it begins
        module = models.get_model(name, weights=None, **given)
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)
    torch.save(module.state_dict(), folder / f"{name}.pth")
    return folder / f"{name}.pth"


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_exported_and_proved(tmp_path, name):
    inputs = tuple(spec_from_text(text) for text in ARCHITECTURES[name])
    ranges = {"batch": (1, 2), **(RANGES if inputs else {})}
    source = SourceRequest(
        f"torchvision:{name}", weights_of(name, tmp_path), inputs, ranges
    )  # fmt: skip
    written = export_model(
        ExportRequest(source, tmp_path / "repository", proof=ProofOptions(budget_s=5))
    )
    proof = written.manifest.proof
    assert proof.verdict == "passed", proof.reason
    assert proof.truth == "float64"
    random = [item for item in proof.judgements if item.kind == "random"]
    assert {item.output for item in random} == {spec.name for spec in written.manifest.outputs}
    assert all(item.verdict == "passed" for item in random)
    assert proof.batchable, proof.batchable_reason


@pytest.mark.slow
def test_published_weights_bring_labels_and_the_recipe_for_pictures(tmp_path, monkeypatch):
    """The cache is planted; the published file would need a network."""
    entry = models.ShuffleNet_V2_X0_5_Weights.DEFAULT
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    planted = tmp_path / "torch" / "hub" / "checkpoints" / Path(entry.url).name
    planted.parent.mkdir(parents=True)
    weights_of("shufflenet_v2_x0_5", tmp_path).rename(planted)
    source = SourceRequest("torchvision:shufflenet_v2_x0_5", Path("DEFAULT"))
    written = export_model(
        ExportRequest(source, tmp_path / "repository", proof=ProofOptions(budget_s=5))
    )
    manifest = written.manifest
    assert manifest.proof.verdict == "passed", manifest.proof.reason
    assert manifest.max_batch_size == 16
    assert manifest.preprocessing.short_side == 256
    labels = (written.folder.parent / "labels.txt").read_text().splitlines()
    assert labels == entry.meta["categories"]
    config = (written.folder.parent / "config.pbtxt").read_text()
    assert 'label_filename: "labels.txt"' in config
