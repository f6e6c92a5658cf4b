"""Which artifact is the reference of a version, and that it has to be proved itself."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest

from runtime.backends.ort import OrtBackend
from runtime.errors import ManifestError, RepositoryError
from runtime.manifest import FILE_NAME, EngineRecord, manifest_to_text, read_manifest
from runtime.shadow.reference import reference_opener

CPU = "CPUExecutionProvider"


@pytest.fixture
def opened(monkeypatch):
    """Artifact and options of each session that is opened."""
    seen = []

    def noted(name, artifact, options=None):
        seen.append((name, artifact, options))
        return OrtBackend(artifact, options)

    monkeypatch.setattr("runtime.shadow.reference.open_backend", noted)
    return seen


@pytest.fixture
def engine(write_toy, repository):
    """A version that says it was built from ``linear/1``; its file is no real engine."""
    source = write_toy("linear")
    manifest = read_manifest(source / FILE_NAME)
    folder = repository / "linear_rtx" / "3"
    folder.mkdir(parents=True)
    (folder / "model.engine").write_bytes(b"engine")
    evidence = (source / manifest.evidence.file).read_bytes()
    (folder / manifest.evidence.file).write_bytes(evidence)

    def engine(**changes):
        record = EngineRecord(
            "tensorrt_rtx", "1.4", "linear/1", manifest.artifact.sha256, (), tf32=False,
            optimization_level=3, workspace_bytes=None, hardware_compatibility="none",
            version_compatible=False,
        )  # fmt: skip
        artifact = dataclasses.replace(
            manifest.artifact, file="model.engine", format="engine",
            sha256=hashlib.sha256(b"engine").hexdigest(),
            engine=dataclasses.replace(record, **changes),
        )  # fmt: skip
        made = dataclasses.replace(manifest, name="linear_rtx", version=3, artifact=artifact)
        (folder / FILE_NAME).write_text(manifest_to_text(made))
        return folder, made

    return engine


def test_on_the_cpu_the_same_artifact_without_optimisations(write_toy, opened):
    folder = write_toy("linear")
    reference = reference_opener(folder, read_manifest(folder / FILE_NAME), CPU)()
    ((name, artifact, options),) = opened
    assert (name, artifact) == ("onnxruntime", folder / "model.onnx")
    assert (options.device, options.threads, options.optimised) == ("cpu", 1, False)
    yardstick = reference.ground.outputs["y"]
    assert 4 <= yardstick.limit <= 8
    assert 0 < yardstick.scale < 1e-6
    x = np.ones((3, 4), np.float32)
    assert reference.backend.infer({"x": x}, ["y"])["y"].shape == (3, 3)


def test_on_another_device_the_same_artifact_on_the_cpu(write_toy, opened):
    folder = write_toy("linear")
    reference_opener(folder, read_manifest(folder / FILE_NAME), "CUDAExecutionProvider")()
    ((_, artifact, options),) = opened
    assert artifact == folder / "model.onnx"
    assert (options.device, options.optimised) == ("cpu", True)


def test_of_an_engine_the_artifact_that_it_was_built_from(engine, opened, repository):
    folder, manifest = engine()
    reference = reference_opener(folder, manifest, "TensorRT")()
    ((_, artifact, _),) = opened
    assert artifact == repository / "linear" / "1" / "model.onnx"
    assert "y" in reference.ground.outputs


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"onnx_sha256": "0" * 64}, "linear/1 is not the artifact that the engine was built from"),
        ({"onnx": "linear/2"}, "cannot be read"),
        ({"onnx": "linear"}, "wanted model/number"),
        ({"onnx": "../linear/1"}, "wanted model/number"),
    ],
)
def test_an_engine_without_its_source_has_no_reference(engine, changes, text):
    folder, manifest = engine(**changes)
    with pytest.raises((RepositoryError, ManifestError), match=text):
        reference_opener(folder, manifest, "TensorRT")


def test_without_evidence_there_is_no_yardstick(write_toy):
    folder = write_toy("strings")
    with pytest.raises(RepositoryError, match="no evidence"):
        reference_opener(folder, read_manifest(folder / FILE_NAME), CPU)


def test_a_reference_that_fails_the_proof_is_none(write_toy):
    weights = {"w": np.zeros((4, 3), np.float32), "axis": np.array([1])}
    folder = write_toy("linear", weights=weights)
    opener = reference_opener(folder, read_manifest(folder / FILE_NAME), CPU)
    with pytest.raises(RepositoryError, match="the reference fails the proof itself"):
        opener()
