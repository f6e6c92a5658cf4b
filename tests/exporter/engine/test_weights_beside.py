"""TensorRT-RTX builds from a graph whose weights lie in a file of their own."""

from __future__ import annotations

import pytest

from exporter.engine.library import open_library
from exporter.pipeline import ExportRequest, export_model
from exporter.source import SourceRequest
from runtime.errors import RepositoryError


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart") / "repository"
    return export_model(ExportRequest(SourceRequest("lenet5"), folder, data_above=0))


def test_an_engine_has_the_weights_and_changed_ones_are_refused(apart, build):
    open_library("tensorrt_rtx")
    engine = build(apart.folder.parent, "batch=1,8,64")
    assert (engine.folder / "model.engine").stat().st_size > 200_000
    path = apart.folder / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RepositoryError, match=r"model.onnx.data has sha256"):
        build(apart.folder.parent, "batch=1,8,64")
