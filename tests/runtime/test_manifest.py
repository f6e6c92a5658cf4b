"""A manifest is understood whole or not used."""

from __future__ import annotations

import dataclasses
import json

import pytest

from runtime.errors import ManifestError
from runtime.manifest import (
    Artifact,
    EngineRecord,
    Evidence,
    Manifest,
    ModuleOrigin,
    Preprocessing,
    ProfileShape,
    Source,
    manifest_from_text,
    manifest_to_text,
    read_manifest,
)
from runtime.proof_records import Judgement, LabelCheck, Proof
from runtime.tensors import TensorSpec

JUDGED = Judgement(
    "logits", "random", False, 74, 740, 1e-7, 1e-7, 1.0, 4.0, 2e-7, 2e-7, 1.0, 8.0, 1e-7, "passed"
)
INTEGERS = Judgement(
    "best", "zeros", True, 2, 2, 0.0, None, None, 0.0, None, None, None, None, None, "failed", "x"
)
PROOF = Proof(
    verdict="passed", backend="onnxruntime", provider="CPUExecutionProvider", device="a CPU",
    library="onnxruntime 1", truth="float64", truth_operators=(), batchable=True,
    batchable_reason="yes", batch_sizes=(1, 2), axis_sizes={"seq": (1, 8, 64)}, seed=0,
    seconds=1.5, cut_by_budget=False, judgements=(JUDGED, INTEGERS),
    labels=LabelCheck("digits", 10, 9, 1, 0.9, 0.9, "passed"), warnings=("w",),
    allowed=("--allow-constant best",),
)  # fmt: skip
ENGINE = EngineRecord(
    "tensorrt_rtx", "1.7.1.116", "net/1", "ef",
    ((ProfileShape("x", (1, 4), (8, 4), (64, 4)),),), tf32=False, optimization_level=3,
    workspace_bytes=None, hardware_compatibility="none", version_compatible=False,
    compute_capabilities=("8.9",),
)  # fmt: skip
FULL = Manifest(
    name="net", version=2, created="2025-01-01T00:00:00+00:00",
    source=Source("net.py:make", "net.Net", 12, "ab", "cd"),
    artifact=Artifact("model.onnx", "ef", "onnx", "fp32", 20, {"torch": "2"}, ENGINE),
    inputs=(TensorSpec("x", "float32", ("batch", 4)), TensorSpec("k", "int64", ())),
    outputs=(TensorSpec("logits", "float32", ("batch", 10)),),
    ranges={"batch": (1, 64)}, max_batch_size=64,
    module_map={"addmm": ModuleOrigin("fc", "torch.nn.Linear", "Gemm")},
    proofs=(PROOF,), evidence=Evidence("golden.safetensors", "01", 59),
    preprocessing=Preprocessing("x", "gray", 32, 32, (0.1,), (0.3,)), labels=("a", "b"),
    on_request=("load",),
)  # fmt: skip


def changed(**fields):
    data = json.loads(manifest_to_text(FULL))
    data.update(fields)
    return json.dumps(data)


def test_what_is_written_is_what_is_read():
    assert manifest_from_text(manifest_to_text(FULL)) == FULL


def test_the_least_manifest_survives_too():
    least = dataclasses.replace(
        FULL, proofs=(), evidence=None, preprocessing=None, labels=None, on_request=(),
        module_map={}, ranges={}, source=Source("f", "C", 0), inputs=(),
    )  # fmt: skip
    assert manifest_from_text(manifest_to_text(least)) == least
    assert least.proof is None
    assert FULL.proof is PROOF


def test_the_text_is_json_that_any_reader_takes():
    text = manifest_to_text(FULL)
    assert text.endswith("}\n")
    assert json.loads(text, parse_constant=pytest.fail)["name"] == "net"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_never_written(value):
    judged = dataclasses.replace(JUDGED, rms_factor=value)
    proof = dataclasses.replace(PROOF, judgements=(judged,))
    with pytest.raises(ValueError, match="JSON"):
        manifest_to_text(dataclasses.replace(FULL, proofs=(proof,)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list, wanted an object"),
        ("{}", "schema version None"),
        (changed(schema_version=1), "schema version 1, this release reads 2; export"),
        (changed(more=1), "manifest has the field 'more', which is not known"),
        (changed(version="1"), "manifest.version is '1'; wanted a int"),
        (changed(version=True), "manifest.version is True"),
        (changed(name=None), "manifest.name is None"),
        (changed(inputs={}), "manifest.inputs is {}; wanted a list"),
        (changed(ranges={"batch": [1]}), r"manifest.ranges.batch is \[1\]; wanted 2 items"),
        (changed(evidence="golden"), "manifest.evidence is 'golden'; wanted an object"),
        (changed(labels=[1]), r"manifest.labels\[0\] is 1"),
        (changed(inputs=[{"name": "x", "dtype": "float31", "shape": []}]), "float31"),
        (changed(inputs=[{"name": "x", "dtype": "float32", "shape": [1.5]}]), "1.5"),
    ],
)
def test_a_manifest_that_is_not_understood_is_refused_by_field(text, said):
    with pytest.raises(ManifestError, match=said) as caught:
        manifest_from_text(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Proof)])
def test_every_field_of_a_proof_is_checked(field):
    data = json.loads(manifest_to_text(FULL))
    data["proofs"][0][field] = {"not": "that"}
    with pytest.raises(ManifestError, match=rf"proofs\[0\]\.{field}"):
        manifest_from_text(json.dumps(data))


def test_a_missing_field_is_named():
    data = json.loads(manifest_to_text(FULL))
    del data["proofs"][0]["judgements"][1]["kind"]
    with pytest.raises(ManifestError, match=r"proofs\[0\].judgements\[1\] has no field 'kind'"):
        manifest_from_text(json.dumps(data))


def test_a_verdict_outside_the_list_is_refused():
    data = json.loads(manifest_to_text(FULL))
    data["proofs"][0]["verdict"] = "fine"
    with pytest.raises(ManifestError, match="wanted one of passed, failed, pending"):
        manifest_from_text(json.dumps(data))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "manifest.json"
    with pytest.raises(ManifestError, match=r"manifest.json cannot be read: .*No such file"):
        read_manifest(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match=r"manifest.json cannot be read"):
        read_manifest(path)
    path.write_text("{}")
    with pytest.raises(ManifestError, match=r"manifest.json: .*schema version"):
        read_manifest(path)
    path.write_text(manifest_to_text(FULL))
    assert read_manifest(path) == FULL
