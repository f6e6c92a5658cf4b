"""The page sets the model's precisions beside each other, and lists what was lowered."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from exporter.parity import ProofOptions
from exporter.precision.pipeline import PrecisionWish
from exporter.report.precisions import precision_rows, worst_ratio_db
from runtime.backends.base import BackendOptions
from runtime.golden import read_golden
from runtime.manifest import read_manifest


@pytest.fixture(scope="module")
def stacked(export_net, tmp_path_factory):
    """A small model in fp32, fp16 and bf16; leave it as it is."""
    return export_net(
        tmp_path_factory.mktemp("precisions") / "repository", "Stacked", "x:float32[batch,8]",
        proof=ProofOptions(budget_s=0), precisions=PrecisionWish(("fp16", "bf16"), ("first",)),
    )  # fmt: skip


def rows_of(folder):
    golden = read_golden(folder / "golden.safetensors")
    return precision_rows(folder, read_manifest(folder / "manifest.json"), golden, BackendOptions())


def test_each_precision_has_its_size_speed_and_noise(stacked):
    full, fp16, bf16 = rows_of(stacked.folder)
    assert [row.version for row in (full, fp16, bf16)] == ["stacked/1", "stacked_fp16/1",
                                                           "stacked_bf16/1"]  # fmt: skip
    assert [row.verdict for row in (full, fp16, bf16)] == ["passed", "passed", "pending"]
    assert [row.own for row in (full, fp16, bf16)] == [True, False, False]
    assert full.share == 1
    assert full.artifact_bytes == (stacked.folder / "model.onnx").stat().st_size
    assert full.latency_ms > 0
    assert fp16.latency_ms > 0
    assert full.snr_db > 100 > fp16.snr_db > 60 > bf16.snr_db > 40


def test_what_cannot_run_here_says_why_in_the_place_of_a_time(stacked):
    *_, bf16 = rows_of(stacked.folder)
    assert bf16.latency_ms is None
    assert "Could not find an implementation" in bf16.not_run
    assert bf16.judged_with.startswith("onnx ")


def test_the_rows_are_the_same_from_any_of_them(stacked):
    one = [(row.version, row.snr_db) for row in rows_of(stacked.folder)]
    for version in stacked.lower:
        assert [(row.version, row.snr_db) for row in rows_of(version.folder)] == one


def test_a_model_of_other_weights_is_none_of_its_precisions(stacked, tmp_path):
    shutil.copytree(stacked.folder.parent.parent, tmp_path / "r")
    manifest = read_manifest(stacked.folder / "manifest.json")
    other = replace(manifest, source=replace(manifest.source, state_sha256="0" * 64))
    assert precision_rows(tmp_path / "r" / "stacked" / "1", other, None, BackendOptions()) == ()


def test_the_page_shows_them_and_what_stayed_fp32(page_of, stacked):
    (fp16, _) = stacked.lower
    page = page_of(fp16.folder)
    section = page.sections["precisions"]
    for text in ("stacked/1", "stacked_fp16/1", "this page", "stacked_bf16/1", "dB", " ms",
                 "stayed fp32", "kept by --keep"):  # fmt: skip
        assert text in section, text
    assert "dB (min 40)" in page.sections["proof"]
    assert ("a", {"href": "#precisions"}) in page.tags


def test_a_model_in_one_precision_has_no_such_section(page_of, linear):
    assert "precisions" not in page_of(linear.folder).sections


def test_the_ratio_is_that_of_the_worst_output_on_real_inputs_where_there_are_some(lenet):
    proof = lenet.manifest.proof
    real = next(item for item in proof.judgements if item.kind == "real")
    worse = replace(real, output="other", relative_rms=0.01)
    assert worst_ratio_db(replace(proof, judgements=(real, worse))) == pytest.approx(40)
    exact = replace(real, relative_rms=0.0)
    assert worst_ratio_db(replace(proof, judgements=(exact,))) is None
