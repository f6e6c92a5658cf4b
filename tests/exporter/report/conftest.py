"""Pages about versions made or changed in the test, read back without a browser."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exporter.engine.options import EngineOptions
from exporter.engine.pipeline import EngineRequest, build_engine
from exporter.engine.progress import BuildView
from exporter.report.facts import gather_facts
from exporter.report.page import page_from_facts
from exporter.write import Written
from runtime.backends.base import BackendOptions
from runtime.golden import Case, Kept, golden_to_bytes, read_golden
from runtime.manifest import read_manifest

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="90"><text>Conv</text></svg>'
VOID = {"meta", "link", "img", "input", "br", "hr"}


@dataclass
class Page(HTMLParser):
    """A page taken apart: tags with attributes, and the text of each section.

    Attributes:
        sections: By id; ``head`` is the header.
    """

    source: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self._section = ""
        self.feed(self.source)
        self.close()
        assert self._open == [], "every element is closed"
        self.sections = {name: " ".join(text.split()) for name, text in self.sections.items()}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("section", "header", "footer"):
            self._section = dict(attrs).get("id", "head" if tag == "header" else tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts.append(data)
        elif self._section:
            self.sections[self._section] = self.sections.get(self._section, "") + " " + data

    @property
    def text(self) -> str:
        return " ".join(self.sections.values())


@pytest.fixture(scope="session")
def page_of() -> Callable[..., Page]:
    """The page about a version's folder; Netron's part is played by a drawing of two nodes."""

    def make(folder: Path, drawing: Callable[[Path], str] = lambda _: SVG) -> Page:
        manifest = read_manifest(folder / "manifest.json")
        return Page(page_from_facts(gather_facts(folder, manifest, BackendOptions(), drawing)))

    return make


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a version, in a repository of its own, whose manifest a function changes."""

    def copy(
        written: Written, change: Callable[[dict[str, Any]], object] = lambda _: None,
        place: str = "net/1",
    ) -> Path:  # fmt: skip
        folder = tmp_path / "repository" / place
        shutil.copytree(written.folder, folder)
        shutil.copy(written.folder.parent / "config.pbtxt", tmp_path / "repository" / "net")
        path = folder / "manifest.json"
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))
        return folder

    return copy


LAYERS = {
    "inputs": [{"name": "image", "dtype": "float32", "shape": [-1, 1, 32, 32]}],
    "layers": [
        {"name": "node_conv2d", "kind": "CONVOLUTION", "inputs": ["image"],
         "outputs": [{"name": "conv2d", "dtype": "float32", "shape": [-1, 6, 28, 28]}],
         "module": "conv1", "module_class": "torch.nn.modules.conv.Conv2d"},
        {"name": "node_relu", "kind": "ACTIVATION", "inputs": ["conv2d"],
         "outputs": [{"name": "relu", "dtype": "float32", "shape": [-1, 6, 28, 28]}]},
        {"name": "node_relu_1", "kind": "ACTIVATION", "inputs": ["relu"],
         "outputs": [{"name": "logits", "dtype": "float32", "shape": [-1, 10]}],
         "module": "", "module_class": "models.lenet5.LeNet5"},
    ],
    "outputs": ["logits"],
}  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path, lenet: Written) -> Path:
    """The folder of an engine as the builder writes it, but for the plan, which nothing can run."""
    repository = tmp_path / "engines"
    shutil.copytree(lenet.folder.parent, repository / "lenet5")
    folder = repository / "lenet5_rtx" / "1"
    shutil.copytree(lenet.folder, folder)
    (folder / "model.onnx").rename(folder / "view.onnx")
    (folder / "model.engine").write_bytes(b"vtrt is how such a plan begins")
    (folder / "layers.json").write_text(json.dumps(LAYERS))
    record = json.loads((folder / "manifest.json").read_text())
    sizes = {"smallest": [1, 1, 32, 32], "optimal": [8, 1, 32, 32], "largest": [64, 1, 32, 32]}
    record["artifact"] |= {
        "file": "model.engine", "format": "engine",
        "sha256": hashlib.sha256((folder / "model.engine").read_bytes()).hexdigest(),
        "engine": {
            "flavour": "tensorrt_rtx", "version": "1.7.1.12", "onnx": "lenet5/1",
            "onnx_sha256": record["artifact"]["sha256"], "tf32": False,
            "profiles": [[{"input": "image", **sizes}]], "optimization_level": 3,
            "workspace_bytes": None, "hardware_compatibility": "none",
            "version_compatible": False,
        },
    }  # fmt: skip
    record["proofs"][0] |= {
        "verdict": "pending", "backend": "tensorrt_rtx", "provider": "TensorRT-RTX",
        "device": "none", "library": "tensorrt_rtx 1.7.1.12", "judgements": [], "labels": None,
        "reason": "there is no GPU on this machine",
    }  # fmt: skip
    record["name"] = "lenet5_rtx"
    (folder / "manifest.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="session")
def built(lenet: Written, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real engine of TensorRT-RTX, built from LeNet-5 without a GPU."""
    repository = tmp_path_factory.mktemp("built") / "repository"
    shutil.copytree(lenet.folder.parents[1], repository)
    request = EngineRequest(repository / "lenet5", None, "tensorrt_rtx", None, EngineOptions())
    return build_engine(request, BuildView()).folder


@pytest.fixture
def experts(lenet: Written, changed: Callable[..., Path]) -> Path:
    """LeNet-5's version with the load of two layers of four experts in its evidence."""
    load = np.array([[[4, 0, 2, 2], [2, 2, 2, 2]]] * 4, dtype=np.int32)
    folder = changed(lenet)
    golden = read_golden(folder / "golden.safetensors")
    inputs = {"image": np.zeros((4, 1, 32, 32), dtype=np.float32)}
    case = Case("real", False, inputs, {"expert_load": Kept(load, load.shape)})
    others = [item for item in golden.cases if item.kind != "real"]
    data = golden_to_bytes(replace(golden, cases=(case, *others)))
    (folder / "golden.safetensors").write_bytes(data)
    record = json.loads((folder / "manifest.json").read_text())
    record["evidence"]["sha256"] = hashlib.sha256(data).hexdigest()
    record["proofs"][0]["routing"] = {
        "layers": ["blocks.0.moe", "blocks.1.moe"], "experts": 4, "samples": 4, "unstable": 0,
        "reached": 7, "unreached": [["blocks.0.moe", 1]], "search_steps": 3,
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(record))
    return folder
