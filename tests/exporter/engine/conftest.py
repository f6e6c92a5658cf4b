"""Engines of TensorRT-RTX, whose real parser and builder run without a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from exporter.engine.after_export import EngineWish
from exporter.engine.library import Library, open_library
from exporter.engine.options import EngineOptions
from exporter.engine.pipeline import EngineRequest, build_engine
from exporter.engine.profiles import profile_from_text
from exporter.engine.progress import BuildView
from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.source import SourceRequest
from exporter.write import Written

RTX = "tensorrt_rtx"


@pytest.fixture(scope="session")
def rtx() -> Library:
    """The library itself."""
    return open_library(RTX)


@pytest.fixture
def repository(lenet: Written, tmp_path: Path) -> Path:
    """A repository of the test's own with a proved LeNet-5 in it."""
    shutil.copytree(lenet.folder.parent.parent, tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture(scope="session")
def build() -> Callable[..., Written]:
    """``build(repository / 'lenet5', 'batch=1,8,64', name=..., tf32=...)`` with TensorRT-RTX."""

    def call(model: Path, *profiles: str, name: str | None = None, **options: Any) -> Written:
        given = EngineOptions(tuple(profile_from_text(text) for text in profiles), **options)
        return build_engine(EngineRequest(model, None, RTX, name, given), BuildView())

    return call


@pytest.fixture(scope="session")
def lenet_engine(
    lenet: Written, build: Callable[..., Written], tmp_path_factory: pytest.TempPathFactory
) -> Written:
    """The engine of LeNet-5, built once; leave it as it is."""
    folder = tmp_path_factory.mktemp("engine") / "repository"
    shutil.copytree(lenet.folder.parent.parent, folder)
    return build(folder / "lenet5")


@pytest.fixture(scope="session")
def moe(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The mixture of experts, exported with an engine; leave it as it is."""
    folder = tmp_path_factory.mktemp("moe-engine") / "repository"
    wish = EngineWish(RTX, EngineOptions((profile_from_text("batch=1,4,64"),)))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TWINPORT_DATA", raising=False)
        patch.chdir(tmp_path_factory.getbasetemp())
        proof = ProofOptions(budget_s=0)
        return export_model(ExportRequest(SourceRequest("moe"), folder, proof=proof, engine=wish))


@pytest.fixture(scope="session")
def change() -> Callable[..., None]:
    """Change the graph or the manifest of a version and make its hashes fit again."""

    def call(
        folder: Path,
        graph: Callable[[onnx.ModelProto], None] | None = None,
        manifest: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        record = json.loads((folder / "manifest.json").read_text())
        if graph is not None:
            model = onnx.load(folder / "model.onnx")
            graph(model)
            (folder / "model.onnx").write_bytes(model.SerializeToString())
        digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
        record["artifact"]["sha256"] = digest
        if manifest is not None:
            manifest(record)
        (folder / "manifest.json").write_text(json.dumps(record))

    return call


@dataclasses.dataclass
class Graphs:
    """Small graphs made in a test."""

    folder: Path

    def write(self, *nodes: onnx.NodeProto, **ends: tuple[str, int, list[Any]]) -> Path:
        """A file with these nodes; ``x`` goes in, ``y`` comes out unless said otherwise."""
        given = {"x": (TensorProto.FLOAT, ["b", 4]), **ends}
        outputs = given.pop("outputs", {"y": (TensorProto.FLOAT, None)})
        graph = helper.make_graph(
            list(nodes), "test",
            [helper.make_tensor_value_info(name, *end) for name, end in given.items()],
            [helper.make_tensor_value_info(name, *end) for name, end in outputs.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        path = self.folder / "graph.onnx"
        path.write_bytes(model.SerializeToString())
        return path


@pytest.fixture
def graphs(tmp_path: Path) -> Graphs:
    """Write small graphs into the test's folder."""
    return Graphs(tmp_path)
