"""TensorRT-RTX builds from a graph that begins with pixels."""

from __future__ import annotations

from exporter.engine.options import EngineOptions
from exporter.engine.pipeline import EngineRequest, build_engine
from exporter.engine.profiles import profile_from_text
from exporter.engine.progress import BuildView
from exporter.pipeline import ExportRequest, export_model
from exporter.preprocess.words import words_from_text
from exporter.source import SourceRequest


def test_an_engine_takes_pictures_of_the_profiles_sizes(tmp_path):
    ranges = {"height": (8, 64), "width": (8, 64), "batch": (1, 8)}
    written = export_model(
        ExportRequest(
            SourceRequest("lenet5", ranges=ranges), tmp_path / "repository",
            preprocess=words_from_text("auto"),
        )
    )  # fmt: skip
    profile = profile_from_text("batch=1,4,8;height=8,28,64;width=8,28,64")
    request = EngineRequest(
        written.folder.parent, None, "tensorrt_rtx", None, EngineOptions((profile,))
    )
    engine = build_engine(request, BuildView())
    assert engine.manifest.inputs == written.manifest.inputs
    assert engine.manifest.preprocessing == written.manifest.preprocessing
    assert engine.manifest.proof.verdict in ("pending", "passed")
