"""A built-in model is exported and proved with a batch of one size, too."""

from __future__ import annotations

import pytest

from exporter.pipeline import ExportRequest, export_model
from exporter.source import SourceRequest
from runtime.tensors import spec_from_text


@pytest.mark.parametrize(
    ("described", "rows"),
    [
        ({"inputs": (spec_from_text("image:float32[1,1,32,32]"),)}, 1),
        ({"ranges": {"batch": (5, 5)}}, 5),
    ],
    ids=["the input says 1", "the range says 5"],
)
def test_a_fixed_batch_is_proved_on_real_rows_and_their_labels(
    tmp_path, monkeypatch, described, rows
):
    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    written = export_model(ExportRequest(SourceRequest("lenet5", **described), tmp_path / "models"))
    proof = written.manifest.proof
    assert (proof.verdict, proof.reason, proof.batchable) == ("passed", "", False)
    assert written.manifest.inputs[0].shape == (rows, 1, 32, 32)
    assert written.manifest.max_batch_size == 0
    assert {"real", "random"} < {item.kind for item in proof.judgements}
    assert (proof.labels.samples, proof.labels.verdict) == (1797, "passed")
    assert proof.labels.artifact_accuracy == proof.labels.torch_accuracy
