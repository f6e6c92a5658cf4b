"""Of a mixture of experts the matrices are lowered, and what chooses among them is not."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.precision.pipeline import PrecisionWish
from exporter.source import SourceRequest
from runtime.errors import InvalidInput


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    """The mixture of experts in fp16; leave it as it is."""
    folder = tmp_path_factory.mktemp("moe-fp16") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TWINPORT_DATA", raising=False)
        patch.chdir(tmp_path_factory.getbasetemp())
        request = ExportRequest(
            SourceRequest("moe"), folder, proof=ProofOptions(budget_s=0),
            precisions=PrecisionWish(("fp16",)),
        )  # fmt: skip
        (version,) = export_model(request).lower
    return version


@pytest.fixture(scope="module")
def weights(moe):
    graph = onnx.load(moe.folder / "model.onnx").graph
    return {item.name: item.data_type for item in graph.initializer}


def test_gates_norms_and_the_stem_stay_fp32_and_the_experts_do_not(weights):
    for name in ("blocks.0.moe.gate.weight", "blocks.2.norm.weight", "stem.3.weight"):
        assert weights[name] == TensorProto.FLOAT
    experts = [kind for name, kind in weights.items() if ".experts." in name]
    assert len(experts) == 3 * 8 * 4
    assert set(experts) == {TensorProto.FLOAT16}


def test_what_comes_after_the_last_choice_is_lowered(weights):
    assert weights["head.weight.fp16"] == TensorProto.FLOAT16


def test_the_manifest_says_why_each_of_them_stayed(moe):
    kept = moe.manifest.artifact.lowering.kept
    assert {item.reason for item in kept} == {"the choice of experts depends on it"}
    assert {"stem.0", "blocks.0.moe", "blocks.2.norm"} <= {item.module for item in kept}


def test_the_routing_of_the_proof_holds_and_clear_samples_come_first(moe):
    proof = moe.manifest.proof
    assert proof.verdict == "passed"
    loads = [item for item in proof.judgements if item.output == "expert_load"]
    real = next(item for item in loads if item.kind == "real")
    assert (real.verdict, real.rms_error) == ("passed", 0.0)
    assert real.samples > 0
    assert any("choose their experts clearly enough for fp16" in line for line in proof.warnings)


def test_casts_stand_around_the_experts_and_not_between_them(moe):
    graph = onnx.load(moe.folder / "model.onnx").graph
    casts = [node for node in graph.node if node.op_type == "Cast" and "/Cast_fp" in node.name]
    assert len(casts) <= 3 * 2 + 4  # each layer one in and one out; the norm, the head, the end


def test_the_fused_form_has_no_lower_precision(tmp_path):
    request = ExportRequest(
        SourceRequest("moe"), tmp_path / "r", moe_form="fused",
        precisions=PrecisionWish(("fp16",)),
    )  # fmt: skip
    with pytest.raises(InvalidInput, match="--moe-form fused is an operator of ONNX Runtime's own"):
        export_model(request)
    assert not (tmp_path / "r").exists()
