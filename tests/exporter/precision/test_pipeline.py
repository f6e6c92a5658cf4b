"""Lower precisions lie beside the version in fp32, proved by their own rule, or nowhere."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import exporter.precision.lowered as lowered
from exporter.commands.layers import proof_of_version
from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.precision.budget import Budgeted
from exporter.precision.pipeline import PrecisionWish
from exporter.source import SourceRequest
from runtime.backends.base import BackendOptions
from runtime.commands.parity import replay_here
from runtime.errors import ExportError, InvalidInput, RepositoryError, Unavailable
from runtime.loading import LoadOptions, load_version
from runtime.manifest import read_manifest
from runtime.replay import check_artifact
from runtime.serving_config import read_serving_config
from runtime.verdicts import VerdictStore

LOWER = ("fp16", "bf16", "int8")


@pytest.fixture(scope="session")
def written(lenet, tmp_path_factory):
    """LeNet-5 in every precision, from the bundled digits; leave it as it is."""
    folder = tmp_path_factory.mktemp("lower") / "repository"
    shutil.copytree(lenet.folder.parent.parent, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TWINPORT_DATA", raising=False)
        patch.chdir(tmp_path_factory.getbasetemp())
        wish = PrecisionWish(LOWER)
        return export_model(ExportRequest(SourceRequest("lenet5"), folder, precisions=wish))


@pytest.fixture(scope="session")
def versions(written):
    return {item.manifest.artifact.precision: item for item in written.lower}


def tensors(version):
    model = onnx.load(version.folder / "model.onnx")
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def size(version):
    return sum(array.nbytes for array in tensors(version).values())


def test_each_precision_is_a_model_of_its_own_beside_the_one_in_fp32(written, versions):
    repository = written.folder.parent.parent
    assert {path.name for path in repository.iterdir()} == {
        "lenet5", "lenet5_fp16", "lenet5_bf16", "lenet5_int8",
    }  # fmt: skip
    for precision, version in versions.items():
        assert version.folder == repository / f"lenet5_{precision}" / "1"
        assert version.manifest == read_manifest(version.folder / "manifest.json")
        assert version.manifest.artifact.lowering.onnx == "lenet5/1"
        assert [spec.dtype for spec in version.manifest.inputs] == ["float32"]
        assert [str(s) for s in version.manifest.outputs] == ["float32 [batch, 10]"]


def test_a_version_that_is_there_already_is_not_made_again(written):
    assert written.manifest.version == 1
    assert [path.name for path in written.folder.parent.iterdir() if path.is_dir()] == ["1"]


def test_fp16_and_int8_pass_by_their_own_rule_on_the_runtime(versions):
    for precision, least in (("fp16", 40.0), ("int8", 20.0)):
        (proof,) = versions[precision].manifest.proofs
        assert (proof.verdict, proof.backend) == ("passed", "onnxruntime")
        real = next(item for item in proof.judgements if item.kind == "real")
        assert real.snr_limit_db == least
        assert real.snr_db > least
        assert proof.batchable
        assert proof.labels.agreeing >= proof.labels.fewest


def test_bf16_is_judged_with_the_evaluator_and_pending_on_the_runtime(versions):
    pending, judged = versions["bf16"].manifest.proofs
    assert (pending.verdict, pending.backend, pending.judgements) == ("pending", "onnxruntime", ())
    assert "Could not find an implementation for" in pending.reason
    assert (judged.verdict, judged.backend) == ("passed", "onnx.reference")
    assert any("on no runtime" in warning for warning in judged.warnings)
    assert judged.labels.samples > 0


def test_int8_weights_are_stored_as_int8_and_all_initializers_are_a_quarter(written, versions):
    weights = tensors(versions["int8"])
    matrices = [name for name, array in weights.items() if array.dtype == np.int8 and array.ndim]
    assert len(matrices) == 5
    assert all(array.dtype == np.float32 for n, array in weights.items() if n.endswith("bias"))
    assert size(written) / size(versions["int8"]) >= 3.7
    assert size(written) / size(versions["fp16"]) == pytest.approx(2, abs=0.01)


def test_the_manifest_lists_what_was_quantised_with_its_module(versions):
    lowering = versions["int8"].manifest.artifact.lowering
    assert [(item.module, item.operator, item.channels) for item in lowering.quantised] == [
        ("conv1", "Conv", 6), ("conv2", "Conv", 16), ("fc1", "Gemm", 120), ("fc2", "Gemm", 84),
        ("fc3", "Gemm", 10),
    ]  # fmt: skip
    assert lowering.kept == ()
    assert "training images of scikit-learn digits" in lowering.calibration


def test_int8_is_proved_on_digits_that_it_was_not_calibrated_on(versions):
    labels = versions["int8"].manifest.proof.labels
    assert (labels.dataset, labels.samples) == ("scikit-learn digits, test part", 360)


def test_node_names_and_the_module_map_carry_over(written, versions):
    before = {node.name for node in onnx.load(written.folder / "model.onnx").graph.node}
    for version in versions.values():
        graph = onnx.load(version.folder / "model.onnx").graph
        assert before <= {node.name for node in graph.node}
        origins = version.manifest.module_map
        assert set(written.manifest.module_map) <= set(origins)
        given = {name for node in graph.node for name in node.output}
        assert given == set(origins)


def test_the_graphs_hold_the_types_they_say(versions):
    stored = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    for precision, dtype in stored.items():
        graph = onnx.load(versions[precision].folder / "model.onnx").graph
        assert {i.data_type for i in graph.initializer} == {dtype, TensorProto.INT64}


def test_evidence_is_replayed_by_the_rule_of_the_manifest(versions):
    version = versions["int8"]
    replayed = replay_here(version.folder, version.manifest, BackendOptions())
    assert replayed.verdict == "passed"
    stated = dataclasses.replace(version.manifest.artifact, precision="fp32")
    as_fp32 = dataclasses.replace(version.manifest, artifact=stated)
    assert replay_here(version.folder, as_fp32, BackendOptions()).verdict == "failed"


@pytest.mark.parametrize(("precision", "served"), [("fp16", True), ("int8", True), ("bf16", False)])
def test_a_server_serves_what_it_has_kernels_for(versions, tmp_path, precision, served):
    folder = versions[precision].folder
    config = read_serving_config(folder.parent)
    options = LoadOptions(BackendOptions(), False, VerdictStore(tmp_path))
    if served:
        model = load_version(folder, 1, config, options)
        assert model.record.replayed.verdict == "passed"
        model.close()
        return
    with pytest.raises(Unavailable, match="its proof is pending and bf16 cannot run here"):
        load_version(folder, 1, config, options)


def test_a_wrong_scale_fails_the_replay(versions, tmp_path):
    source = versions["int8"]
    folder = tmp_path / "lenet5_int8" / "1"
    shutil.copytree(source.folder.parent, folder.parent)
    model = onnx.load(folder / "model.onnx")
    step = next(item for item in model.graph.initializer if item.name == "conv2.weight.scale")
    step.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(step) * np.float32(1.5), step.name))
    onnx.save(model, folder / "model.onnx")
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    artifact = dataclasses.replace(source.manifest.artifact, sha256=digest)
    changed = dataclasses.replace(source.manifest, artifact=artifact)
    check_artifact(folder, changed)
    replayed = replay_here(folder, changed, BackendOptions())
    assert replayed.verdict == "failed"
    assert "signal-to-noise" in replayed.reason


def test_the_layer_proof_judges_modules_by_the_rule_of_the_precision(versions):
    int8 = versions["int8"]
    proof = proof_of_version(int8.folder, int8.manifest, None, None, BackendOptions())
    assert proof.passed
    convolution = next(row for row in proof.rows if row.module == "conv2")
    assert convolution.local.snr_limit_db == 20.0
    assert 20 < convolution.local.snr_db < 60


def test_a_failed_proof_of_a_lower_precision_names_the_module(lenet, tmp_path, monkeypatch):
    def spoilt(chosen, scales, record):
        steps = {name: step / 20 if name == "view" else step for name, step in scales.items()}
        return quantise(chosen, steps, record)

    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    quantise = lowered.quantise
    monkeypatch.setattr(lowered, "quantise", spoilt)
    monkeypatch.setattr(lowered, "within_budget", lambda choice, *_: Budgeted(choice, 30.0))
    shutil.copytree(lenet.folder.parent.parent, tmp_path / "r")
    request = ExportRequest(SourceRequest("lenet5"), tmp_path / "r",
                            precisions=PrecisionWish(("int8",)))  # fmt: skip
    (version,) = export_model(request).lower
    assert version.folder == tmp_path / "r" / "lenet5_int8" / "failed" / "1"
    assert "the first module over its local budget is fc1" in version.manifest.proof.reason


def test_a_module_that_is_kept_stays_fp32(export_net, tmp_path):
    written = export_net(
        tmp_path / "repository", "Stacked", "x:float32[batch,8]",
        proof=ProofOptions(budget_s=0), precisions=PrecisionWish(("fp16",), keep=("first",)),
    )  # fmt: skip
    (version,) = written.lower
    (kept,) = version.manifest.artifact.lowering.kept
    assert (kept.module, kept.reason) == ("first", "kept by --keep")
    weights = tensors(version)
    assert weights["first.weight"].dtype == np.float32
    assert weights["second.weight.fp16"].dtype == np.float16


def test_a_module_over_its_budget_stays_fp32_and_the_rest_does_not(export_net, tmp_path):
    written = export_net(
        tmp_path / "repository", "Cancelling", "x:float32[batch,8]",
        proof=ProofOptions(budget_s=0), precisions=PrecisionWish(("fp16",)),
    )  # fmt: skip
    (version,) = written.lower
    assert version.manifest.proof.verdict == "passed"
    kept = version.manifest.artifact.lowering.kept
    assert [item.module for item in kept] == ["difference"]
    assert "over its error budget" in kept[0].reason
    assert version.manifest.artifact.lowering.operators > 0


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (PrecisionWish(("fp16",), keep=("third",)), "--keep names the module 'third'; there are"),
        (PrecisionWish(("int8",)), "int8 is calibrated on real inputs and there are none"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(export_net, tmp_path, wish, message):
    with pytest.raises(InvalidInput, match=message):
        export_net(tmp_path / "repository", "Stacked", "x:float32[batch,8]", precisions=wish)
    assert not (tmp_path / "repository").exists()


def test_another_model_of_the_name_is_refused_before_anything_is_written(export_net, tmp_path):
    repository = tmp_path / "repository"
    export_net(repository, "Linear", "x:float32[batch,4]", name="net_fp16",
               proof=ProofOptions(budget_s=0))  # fmt: skip
    with pytest.raises(RepositoryError, match="net_fp16"):
        export_net(repository, "Stacked", "x:float32[batch,8]", name="net",
                   precisions=PrecisionWish(("fp16",)))  # fmt: skip
    assert [path.name for path in repository.iterdir()] == ["net_fp16"]


def test_a_graph_without_products_cannot_be_int8(export_net, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.arange(32, dtype=np.float32).reshape(8, 4) / 16)
    with pytest.raises(ExportError, match="nothing of the graph can be int8"):
        export_net(tmp_path / "repository", "Sine", "x:float32[batch,4]",
                   samples=tmp_path / "x.npz", proof=ProofOptions(budget_s=0),
                   precisions=PrecisionWish(("int8",), own_samples=True))  # fmt: skip


@pytest.mark.mnist
def test_int8_agrees_on_at_least_998_of_a_thousand_test_labels(tmp_path):
    if not os.environ.get("TWINPORT_DATA"):
        pytest.skip("TWINPORT_DATA names no folder with MNIST")
    wish = PrecisionWish(("int8",))
    written = export_model(ExportRequest(SourceRequest("lenet5"), tmp_path, precisions=wish))
    labels = written.lower[0].manifest.proof.labels
    assert (labels.dataset, labels.samples, labels.fewest) == ("MNIST test", 10_000, 9_980)
    assert labels.agreeing >= 9_980
    assert size(written) / size(written.lower[0]) >= 3.7
