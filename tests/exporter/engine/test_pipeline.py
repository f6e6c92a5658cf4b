"""What is written for an engine, what is refused before, and the proof where a GPU answers."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager

import onnx
import pytest
from onnx import helper

import exporter.engine.pipeline as pipeline
from exporter.engine.after_export import EngineWish
from exporter.engine.layers import EngineLayer, EngineNetwork, EngineTensor
from exporter.engine.options import EngineOptions
from exporter.engine.profiles import profile_from_text
from exporter.engine.record import check_precision
from runtime.backends.cuda import Gpu
from runtime.backends.factory import open_backend
from runtime.errors import BackendUnavailable, ExportError, InvalidInput, NotFound, RepositoryError
from runtime.manifest import read_manifest
from runtime.model_config import read_config
from runtime.replay import check_artifact

FILES = {"model.engine", "manifest.json", "golden.safetensors", "layers.json", "view.onnx"}


def test_the_version_is_whole_and_carries_the_evidence_of_its_source(lenet, lenet_engine):
    folder, manifest = lenet_engine.folder, lenet_engine.manifest
    assert folder.parent.name == "lenet5_rtx"
    assert {path.name for path in folder.iterdir()} == FILES
    golden = (folder / "golden.safetensors").read_bytes()
    assert golden == (lenet.folder / "golden.safetensors").read_bytes()
    assert read_manifest(folder / "manifest.json") == manifest
    check_artifact(folder, manifest)
    assert (folder.parent / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]
    for field in (
        "source",
        "inputs",
        "outputs",
        "preprocessing",
        "labels",
        "module_map",
        "evidence",
    ):
        assert getattr(manifest, field) == getattr(lenet.manifest, field)


def test_the_manifest_says_how_it_was_built(rtx, lenet, lenet_engine):
    artifact = lenet_engine.manifest.artifact
    assert (artifact.format, artifact.precision, artifact.file) == (
        "engine",
        "fp32",
        "model.engine",
    )
    assert artifact.producers["tensorrt_rtx"] == rtx.version
    engine = artifact.engine
    assert (engine.flavour, engine.version, engine.onnx) == (
        "tensorrt_rtx",
        rtx.version,
        "lenet5/1",
    )
    assert engine.onnx_sha256 == lenet.manifest.artifact.sha256
    assert engine.tf32 is False
    ((shape,),) = engine.profiles
    assert (shape.smallest, shape.optimal, shape.largest) == (
        (1, 1, 32, 32), (8, 1, 32, 32), (64, 1, 32, 32),
    )  # fmt: skip


def test_the_configuration_is_tritons_with_the_flavours_backend(lenet_engine):
    config = read_config(lenet_engine.folder.parent / "config.pbtxt")
    assert (config.name, config.backend) == ("lenet5_rtx", "tensorrt_rtx")
    assert config.default_model_filename == "model.engine"
    assert config.max_batch_size == 64
    assert config.output[0].label_filename == "labels.txt"


def test_a_proof_that_nothing_ran_is_pending_and_has_no_numbers(lenet, lenet_engine):
    proof = lenet_engine.manifest.proof
    if pipeline.gpu_name() is not None:
        pytest.skip("a GPU answers here, so the proof is run")
    assert (proof.verdict, proof.provider, proof.device) == ("pending", "none", "none")
    assert proof.judgements == proof.batch_sizes == ()
    assert (proof.seconds, proof.labels, proof.routing) == (0.0, None, None)
    assert "was not run here" in proof.reason
    assert "replayed at the first start on a GPU" in proof.reason
    assert proof.batchable
    assert "as lenet5/1 on CPUExecutionProvider" in proof.batchable_reason
    assert any("Triton" in warning for warning in proof.warnings)


def test_profiles_narrow_ranges_and_largest_batch(repository, build):
    written = build(repository / "lenet5", "batch=1,2,4", "batch=5,8,16", name="small")
    assert written.manifest.ranges == {"batch": (1, 16)}
    assert written.manifest.max_batch_size == 16
    assert len(written.manifest.artifact.engine.profiles) == 2
    assert read_config(repository / "small" / "config.pbtxt").max_batch_size == 16


def test_a_second_build_is_version_2_and_another_configuration_is_refused(repository, build):
    assert build(repository / "lenet5").folder.name == "1"
    assert build(repository / "lenet5" / "1", optimization_level=0).folder.name == "2"
    with pytest.raises(RepositoryError, match="max_batch_size 64, this export has 8"):
        build(repository / "lenet5", "batch=1,2,8")
    assert {path.name for path in (repository / "lenet5_rtx").iterdir()} == {
        "1", "2", "config.pbtxt", "labels.txt",
    }  # fmt: skip


def test_the_mixture_is_exported_in_the_form_that_engines_take_and_proved_in_it(moe):
    graph = onnx.load(moe.folder / "model.onnx").graph
    # The other forms sort tokens, or split them, by expert.
    assert not {"NonZero", "Range", "Split", "Loop"} & {node.op_type for node in graph.node}
    assert moe.manifest.proof.verdict == "passed"
    engine = moe.engine.manifest
    assert engine.artifact.engine.onnx_sha256 == moe.manifest.artifact.sha256
    assert engine.on_request == ("expert_load",)
    assert moe.engine.folder.parent.name == "moe_rtx"


def test_no_engine_is_built_where_the_proof_fails(export_net, tmp_path):
    wish = EngineWish("tensorrt_rtx")
    written = export_net(tmp_path, "ZeroHead", "x:float32[batch,4]", engine=wish)
    assert written.manifest.proof.verdict == "failed"
    assert written.engine is None
    assert not (tmp_path / "zerohead_rtx").exists()


def test_an_export_refuses_a_wrong_profile_before_it_begins(export_net, tmp_path):
    wish = EngineWish("tensorrt_rtx", EngineOptions((profile_from_text("n=1,2,3"),)))
    with pytest.raises(InvalidInput, match="names 'n', which is no free axis"):
        export_net(tmp_path, "Linear", "x:float32[batch,4]", engine=wish)
    assert list(tmp_path.iterdir()) == []


def broken(folder, kind, change):
    if kind == "changed":
        (folder / "model.onnx").write_bytes(b"other")
    elif kind == "evidence":
        (folder / "golden.safetensors").write_bytes(b"other")
    elif kind == "manifest":
        (folder / "manifest.json").unlink()
    elif kind == "corrupted":
        (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:1000])
        change(folder)
    elif kind == "unproved":
        change(
            folder,
            manifest=lambda record: record["proofs"][0].update(verdict="failed", reason="off"),
        )
    elif kind == "bare":
        change(folder, manifest=lambda record: record.update(evidence=None))
    elif kind == "wide":
        change(folder, manifest=lambda record: record["outputs"][0].update(dtype="float64"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("changed", "the file was changed after the proof"),
        ("evidence", r"golden\.safetensors has sha256"),
        ("manifest", "nothing is proved of it"),
        ("corrupted", "it is not ONNX"),
        ("unproved", "its proof failed: off; export it again"),
        ("bare", "carries no evidence"),
        ("wide", "output 'logits' is float64, which no engine takes"),
    ],
)
def test_a_source_that_is_not_what_was_proved_is_refused(repository, build, change, kind, said):
    broken(repository / "lenet5" / "1", kind, change)
    with pytest.raises((RepositoryError, InvalidInput), match=said):
        build(repository / "lenet5")
    assert [path.name for path in repository.iterdir()] == ["lenet5"]


def test_paths_that_are_no_proved_model_are_refused(repository, lenet_engine, build):
    (repository / "none").mkdir()
    for path, said in (
        (repository / "gone", "there is no folder"),
        (repository / "none", "has no version"),
        (repository / "lenet5" / "1" / "model.onnx", "is a file"),
    ):
        with pytest.raises(NotFound, match=said):
            build(path)
    with pytest.raises(RepositoryError, match="is an engine already; it was built from lenet5/1"):
        build(lenet_engine.folder.parent)


def test_a_repository_that_is_no_folder_to_write_is_one_line(repository, build):
    (repository / "lenet5_rtx").write_text("a file")
    with pytest.raises(RepositoryError, match="cannot be written"):
        build(repository / "lenet5")


def test_a_refused_node_leaves_nothing(repository, build, change):
    def add(model):
        model.graph.node.append(helper.make_node("NonZero", ["view"], ["where"], name="n_where"))

    def place(record):
        record["module_map"]["where"] = {**record["module_map"]["view"], "operator": "NonZero"}

    change(repository / "lenet5" / "1", add, place)
    with pytest.raises(ExportError, match=r"node 'n_where' \(NonZero\) of module flatten"):
        build(repository / "lenet5")
    assert [path.name for path in repository.iterdir()] == ["lenet5"]


def test_profiles_must_take_what_the_evidence_asks(export_net, tmp_path, build):
    ranges = {"batch": (1, 8), "seq": (2, 16)}
    export_net(tmp_path, "Attention", "x:float32[batch,seq,16]", ranges=ranges)
    with pytest.raises(InvalidInput, match="begin with batch=1"):
        build(tmp_path / "attention", "batch=2,4,8;seq=2,8,16")
    with pytest.raises(InvalidInput, match=r"evidence of attention/1 has inputs with seq \d+, the"):
        build(tmp_path / "attention", "batch=1,4,8;seq=2,4,5")
    written = build(tmp_path / "attention", "batch=1,2,4;seq=2,8,16")
    assert written.manifest.ranges == {"batch": (1, 4), "seq": (2, 16)}


@pytest.fixture
def with_gpu(monkeypatch, lenet):
    """A stand-in for a GPU: the engine is answered for by ONNX Runtime, times ``off``."""
    state = {"off": 1.0, "opens": []}

    @contextmanager
    def closing(backend):
        yield backend

    class Off:
        captures = False

        def __init__(self, backend):
            self.backend = backend
            self.identity = dataclasses.replace(backend.identity, provider="stand-in")

        def infer(self, arrays, outputs=None):
            answers = self.backend.infer(arrays, outputs)
            return {name: value * state["off"] for name, value in answers.items()}

        def close(self):
            self.backend.close()

    def opened(flavour, artifact, options):
        state["opens"].append((flavour, artifact.name, options.device))
        if "refuses" in state:
            raise BackendUnavailable(state["refuses"])
        return Off(open_backend("onnxruntime", lenet.folder / "model.onnx"))

    monkeypatch.setattr(pipeline.cuda, "device_problem", lambda: None)
    monkeypatch.setattr(pipeline.cuda, "gpu", lambda: Gpu("Stand-in", (8, 9)))
    monkeypatch.setattr(pipeline, "open_backend", opened)
    return state


def test_where_a_gpu_answers_the_proof_is_run_at_once(repository, build, with_gpu):
    written = build(repository / "lenet5")
    proof = written.manifest.proof
    assert with_gpu["opens"] == [("tensorrt_rtx", "model.engine", "cuda")]
    assert (proof.verdict, proof.provider) == ("passed", "stand-in")
    assert {item.kind for item in proof.judgements} >= {"real", "random", "zeros"}
    assert written.manifest.artifact.engine.built_on == "Stand-in (compute capability 8.9)"
    assert written.folder == repository / "lenet5_rtx" / "1"


def test_an_engine_that_is_another_model_goes_to_failed(repository, build, with_gpu):
    with_gpu["off"] = 1.01
    written = build(repository / "lenet5")
    assert written.manifest.proof.verdict == "failed"
    assert written.folder == repository / "lenet5_rtx" / "failed" / "1"
    assert not (repository / "lenet5_rtx" / "config.pbtxt").exists()


def test_an_engine_for_another_gpu_is_not_tried_here(repository, build, with_gpu):
    proof = build(repository / "lenet5", compute_capabilities=("12.0", "12.1")).manifest.proof
    assert with_gpu["opens"] == []
    assert proof.verdict == "pending"
    assert "it is for 12.0, 12.1, here is Stand-in (compute capability 8.9)" in proof.reason
    assert build(repository / "lenet5", compute_capabilities=("8.9",)).manifest.proof.judgements


def test_a_gpu_that_cannot_run_it_leaves_the_proof_pending(repository, build, with_gpu):
    with_gpu["refuses"] = "no target for this GPU"
    proof = build(repository / "lenet5").manifest.proof
    assert proof.verdict == "pending"
    assert "(no target for this GPU)" in proof.reason


@pytest.mark.parametrize(("stated", "found", "fits"), [
    ("fp32", ("float32", "int64"), True), ("fp32", ("float32", "float16"), False),
    ("fp16", ("float32",), False), ("fp16", ("float32", "float16"), True),
    ("fp32", ("int32",), True), ("int8", ("float32", "int8"), False),
])  # fmt: skip
def test_a_stated_precision_is_held_against_the_network(lenet, stated, found, fits):
    artifact = dataclasses.replace(lenet.manifest.artifact, precision=stated)
    manifest = dataclasses.replace(lenet.manifest, artifact=artifact)
    layers = tuple(
        EngineLayer(dtype, "CAST", (), (EngineTensor(dtype, dtype, ()),)) for dtype in found
    )
    network = EngineNetwork((), layers, ())
    if fits:
        check_precision(manifest, network)
    else:
        with pytest.raises(ExportError, match=f"the manifest states {stated}"):
            check_precision(manifest, network)
