"""Other people's layers go from a user's file to a proved version."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from exporter.experts.adapters import find_layers
from exporter.experts.suspects import suspects_of
from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.source import SourceRequest
from runtime.errors import ExportError
from runtime.tensors import spec_from_text

OTHERS = Path(__file__).parent / "others.py"
HIDDEN_STATES = "hidden_states:float32[batch,seq,16]"


def exported(factory, folder, text=HIDDEN_STATES, form="auto"):
    source = SourceRequest(
        f"{OTHERS}:{factory}", inputs=(spec_from_text(text),),
        ranges={"batch": (1, 8), "seq": (1, 9)} if "seq" in text else {"tokens": (0, 33)},
    )  # fmt: skip
    request = ExportRequest(source, folder, moe_form=form, proof=ProofOptions(budget_s=60))
    return export_model(request)


def operators(written):
    return {node.op_type for node in onnx.load(written.folder / "model.onnx").graph.node}


@pytest.mark.parametrize("factory", ["mixtral", "qwen3", "deepseek_v3"])
def test_a_block_of_transformers_is_exported_sparse_and_proved(factory, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    written = exported(factory, tmp_path)
    assert written.manifest.proof.verdict == "passed", written.manifest.proof.reason
    assert written.manifest.on_request == ("expert_load",)
    assert "Split" in operators(written)
    assert (written.folder / "view.onnx").is_file()


def test_the_masked_loop_is_exported_sparse_and_proved(tmp_path):
    written = exported("masked_loop", tmp_path, "x:float32[tokens,16]")
    assert written.manifest.proof.verdict == "passed", written.manifest.proof.reason
    assert [spec.name for spec in written.manifest.outputs] == [
        "output_0", "output_1", "expert_load",
    ]  # fmt: skip


def test_a_loop_that_no_adapter_knows_is_named_with_the_decorator(tmp_path):
    with pytest.raises(ExportError, match=r"layer 'block' \(UnknownLoop\).*@.*moe_adapter"):
        exported("unknown_loop", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_dense_layer_that_no_adapter_knows_is_exported_with_a_warning(tmp_path):
    written = exported("unknown_dense", tmp_path)
    proof = written.manifest.proof
    assert proof.verdict == "passed", proof.reason
    assert proof.routing is None
    (warning,) = [text for text in proof.warnings if "mixture of experts" in text]
    assert "layer 'block' (UnknownDense)" in warning
    assert "@exporter.experts.moe_adapter" in warning


def test_a_layer_that_an_adapter_knows_is_no_suspect():
    import importlib.util

    spec = importlib.util.spec_from_file_location("others", OTHERS)
    others = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(others)
    known = others.masked_loop()
    assert suspects_of(known, find_layers(known)) == ()
    unknown = others.unknown_dense()
    assert [item.path for item in suspects_of(unknown, find_layers(unknown))] == ["block"]
