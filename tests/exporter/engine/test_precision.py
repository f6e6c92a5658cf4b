"""TensorRT-RTX builds lower precisions as their graphs say: the types are those of the file."""

from __future__ import annotations

import shutil

import pytest

from exporter.engine.after_export import EngineWish
from exporter.engine.layers import read_network
from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.precision.pipeline import PrecisionWish
from exporter.source import SourceRequest

RTX = "tensorrt_rtx"


@pytest.fixture(scope="module")
def engines(lenet, tmp_path_factory):
    """The engines of LeNet-5 in each lower precision, by precision."""
    folder = tmp_path_factory.mktemp("lower-engines") / "repository"
    shutil.copytree(lenet.folder.parent.parent, folder)
    wish = PrecisionWish(("fp16", "bf16", "int8"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TWINPORT_DATA", raising=False)
        patch.chdir(tmp_path_factory.getbasetemp())
        proof = ProofOptions(budget_s=0)
        request = ExportRequest(
            SourceRequest("lenet5"), folder, proof=proof, precisions=wish, engine=EngineWish(RTX)
        )
        written = export_model(request)
    return {item.manifest.artifact.precision: item.engine for item in written.lower}


def layers_of(engine):
    return read_network(engine.folder / "layers.json").layers


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_every_layer_between_the_two_casts_computes_in_the_lower_type(engines, precision, dtype):
    engine = engines[precision]
    assert engine.folder.parent.name == f"lenet5_{precision}_rtx"
    assert engine.manifest.artifact.precision == precision
    kinds = {layer.kind: {tensor.dtype for tensor in layer.outputs} for layer in layers_of(engine)}
    for kind in ("CONVOLUTION", "MATRIX_MULTIPLY", "ACTIVATION", "POOLING", "CONSTANT"):
        assert kinds[kind] == {dtype}, kind
    floats = [layer.kind for layer in layers_of(engine) if layer.outputs[0].dtype == "float32"]
    assert floats == ["CAST"]


def test_int8_weights_go_in_as_int8_and_every_product_reads_dequantised_values(engines):
    layers = layers_of(engines["int8"])
    constants = [layer for layer in layers if layer.kind == "CONSTANT"]
    weights = [layer for layer in constants if layer.outputs[0].dtype == "int8"]
    assert {layer.name for layer in weights} >= {"fc1.weight.int8", "fc2.weight.int8"}
    quantised = [layer for layer in layers if layer.kind == "QUANTIZE"]
    assert [layer.outputs[0].dtype for layer in quantised] == ["int8"] * 5
    made_by = {tensor.name: layer.kind for layer in layers for tensor in layer.outputs}
    for layer in layers:
        if layer.kind == "CONVOLUTION":
            assert made_by[layer.inputs[0]] == "DEQUANTIZE"


def test_an_engine_of_a_lower_precision_is_pending_and_takes_the_evidence_along(engines):
    for precision, engine in engines.items():
        assert engine.manifest.proof.verdict == "pending", precision
        assert (engine.folder / "golden.safetensors").is_file()
        assert engine.manifest.artifact.engine.onnx == f"lenet5_{precision}/1"
