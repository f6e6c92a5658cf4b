"""An export leaves a whole, proved version, a failed one with its numbers, or nothing."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import exporter.pipeline as pipeline
import exporter.write as write
from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.source import SourceRequest, load_source
from runtime import layout
from runtime.errors import ExportError, InvalidInput, RepositoryError
from runtime.manifest import read_manifest
from runtime.model_config import read_config
from runtime.tensors import spec_from_text

X = "x:float32[batch,4]"


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def off_by_one_percent(model):
    """A pass that plants a fault: one weight of one layer, one percent off."""
    value = next(v for v in model.graph.initializers.values() if len(v.shape) == 2)
    weights = value.const_value.numpy().copy()
    weights.reshape(-1)[0] *= 1.01
    value.const_value = ir.tensor(weights, name=value.name)
    return model, True


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(
        pipeline, "passes_for", lambda *_: (pipeline.strip_provenance, off_by_one_percent)
    )


@pytest.fixture
def copied(linear, tmp_path):
    """A repository with version 1 of ``linear``."""
    shutil.copytree(linear.folder.parent.parent, tmp_path / "repository")
    return tmp_path / "repository"


def test_a_version_has_all_its_files_and_the_manifest_describes_them(linear):
    model = linear.folder.parent
    assert linear.folder.name == "1"
    assert {path.name for path in model.iterdir()} == {"1", "config.pbtxt"}
    assert {path.name for path in linear.folder.iterdir()} == {
        "model.onnx", "manifest.json", "golden.safetensors",
    }  # fmt: skip
    manifest = read_manifest(linear.folder / "manifest.json")
    assert manifest == linear.manifest
    for record in (manifest.artifact, manifest.evidence):
        data = (linear.folder / record.file).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record.sha256
    assert manifest.proof.verdict == "passed"
    assert manifest.source.factory == "nets.py:Linear"
    assert manifest.source.parameters == 15
    assert set(manifest.artifact.producers) >= {"torch", "onnx", "onnxruntime"}
    assert "unknown" not in manifest.artifact.producers.values()
    config = read_config(model / "config.pbtxt")
    assert config.max_batch_size == manifest.max_batch_size == 64
    assert list(config.input[0].dims) == [4]


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "golden.safetensors"])
def test_no_file_names_a_place_of_this_machine(lenet, linear, name):
    for written in (lenet, linear):
        data = (written.folder / name).read_bytes()
        places = [Path.cwd(), Path.home(), Path(__file__).parent, Path(sys.prefix),
                  written.folder.parent.parent]  # fmt: skip
        for place in [*map(str, places), "site-packages", '.py", line', "/tmp/", 'nets.py",']:
            assert place.encode() not in data.replace(b'"factory": "nets.py:Linear",', b""), place


def test_a_second_export_is_version_2_and_leaves_the_first_alone(copied, export_net):
    before = tree(copied)
    written = export_net(copied, "Linear", X)
    assert (written.folder, written.manifest.version) == (copied / "linear" / "2", 2)
    after = tree(copied)
    assert {key: after[key] for key in before} == before
    one, two = (copied / "linear" / number / "model.onnx" for number in "12")
    assert one.read_bytes() == two.read_bytes()


def test_another_interface_is_refused_and_nothing_changes(copied, export_net):
    before = tree(copied)
    with pytest.raises(RepositoryError, match=r"has no input 'input'.*another --name"):
        export_net(copied, "wider", "input:float32[batch,4]", name="linear")
    with pytest.raises(RepositoryError, match="max_batch_size 64, this export has 8"):
        export_net(copied, "Linear", X, ranges={"batch": (1, 8)})
    assert tree(copied) == before
    assert export_net(copied, "Linear", X, name="other", ranges={"batch": (1, 8)}).folder.is_dir()


def test_a_faulty_artifact_goes_to_failed_with_all_numbers(tmp_path, export_net, faulty):
    written = export_net(tmp_path, "Linear", X)
    assert written.folder == tmp_path / "linear" / "failed" / "1"
    assert {path.name for path in (tmp_path / "linear").iterdir()} == {"failed"}
    manifest = read_manifest(written.folder / "manifest.json")
    assert manifest.proof.verdict == "failed"
    assert "output 'output' on random inputs is failed: RMS error is" in manifest.proof.reason
    assert {item.kind for item in manifest.proof.judgements} == {
        "random", "zeros", "constant", "large",
    }  # fmt: skip
    assert (written.folder / "golden.safetensors").is_file()
    assert layout.version_numbers(tmp_path / "linear") == []


def test_the_next_good_export_takes_the_next_number(tmp_path, export_net, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "passes_for", lambda *_: (off_by_one_percent,))
        export_net(tmp_path, "Linear", X)
    written = export_net(tmp_path, "Linear", X)
    assert written.folder == tmp_path / "linear" / "2"
    assert (tmp_path / "linear" / "config.pbtxt").is_file()
    assert (tmp_path / "linear" / "failed" / "1").is_dir()


@pytest.fixture(scope="module")
def known_graph():
    """What the export of ``Linear`` is, so that not every test has to wait for torch."""
    net = f"{Path(__file__).parent / 'nets.py'}:Linear"
    source = load_source(SourceRequest(net, None, (spec_from_text(X),)))
    return pipeline._graph(source, 20, (pipeline.strip_provenance,))


class Stop(BaseException):
    """Neither ours nor a library's."""


@pytest.mark.parametrize("place", ["_prove", "_manifest", "golden_to_bytes", "manifest_to_text",
                                   "config_to_write", "write_atomically", "publish"])  # fmt: skip
@pytest.mark.parametrize("error", [Stop(), OSError(28, "No space left on device")])
def test_whatever_stops_an_export_the_repository_is_as_it_was(
    monkeypatch, copied, place, error, export_net, known_graph
):
    """In a repository that has a version, and for a model that is new in it."""

    def stop(*_args, **_more):
        raise error

    graph, options = known_graph, ProofOptions(budget_s=0)
    monkeypatch.setattr(pipeline, "_graph", lambda *_: graph)
    monkeypatch.setattr(pipeline if place.startswith("_") else write, place, stop)
    before = tree(copied)
    kinds = (Stop,) if isinstance(error, Stop) else (RepositoryError,)
    for name in ("linear", "new"):
        if (place, name) == ("write_atomically", "linear"):
            continue  # the shared files are there already
        with pytest.raises(kinds):
            export_net(copied, "Linear", X, name=name, proof=options)
        assert tree(copied) == before
    with pytest.raises(kinds):
        export_net(copied.parent / "second" / "repository", "Linear", X, proof=options)
    assert not (copied.parent / "second").exists()


def test_a_label_file_goes_again_when_the_configuration_cannot_be_written(tmp_path, monkeypatch):
    """The first of two shared files is written, the second is not."""
    written = []

    def second_fails(path, text):
        written.append(path.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        path.write_text(text)

    monkeypatch.setattr(write, "write_atomically", second_fails)
    with pytest.raises(RepositoryError, match="No space left on device"):
        export_model(ExportRequest(SourceRequest("lenet5"), tmp_path / "repository",
                                   proof=ProofOptions(budget_s=0)))  # fmt: skip
    assert written == ["labels.txt", "config.pbtxt"]
    assert tree(tmp_path) == {}


def test_a_repository_that_is_a_file_is_refused_before_any_work(tmp_path, export_net, monkeypatch):
    monkeypatch.setattr(pipeline, "load_prepared", pytest.fail)
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RepositoryError, match="file is a file; the repository must be a"):
            export_net(place, "Linear", X)


@pytest.mark.parametrize("name", ["../out", "a b", ".x", "a/b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path, export_net, name):
    with pytest.raises(InvalidInput, match="cannot be used"):
        export_net(tmp_path / "repository", "Linear", X, name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_waiver_for_an_output_that_is_not_there_is_refused(tmp_path, export_net):
    with pytest.raises(InvalidInput, match="names the output 'logit'; the outputs are output"):
        export_net(tmp_path, "Linear", X, proof=ProofOptions(allow_constant=frozenset({"logit"})))
    assert list(tmp_path.iterdir()) == []


KINDS = {
    "OverTheBatch": ([X], {}, {}, 0),
    "Attention": (["x:float32[batch,seq,16]"], {}, {}, 64),
    "Recurrent": (["x:float32[batch,seq,8]"], {"seq": (1, 40)}, {}, 64),
    "Encoder": (["tokens:int64[batch,seq]", "hidden:bool[batch,seq]"], {"seq": (1, 32)},
                {"tokens": (0, 50), "hidden": (0, 1)}, 64),
    "Named": ([X], {"batch": (3, 5)}, {}, 5),
    "Tokens": (["tokens:int64[batch,seq]"], {"seq": (1, 16)}, {"tokens": (0, 50)}, 64),
    "Training": ([X], {"batch": (1, 4)}, {}, 4),
    "InPlace": ([X], {}, {}, 64),
    "TwoTables": (["x:float32[n,4]", "table:float32[m,3]"], {}, {}, 0),
    "WithTotal": ([X], {}, {}, 0),
    "Masked": (["x:float32[batch,seq,4]"], {"seq": (2, 2)}, {}, 64),
    "Exponential": (["x:float32[2,8]"], {}, {}, 0),
}  # fmt: skip


@pytest.mark.parametrize("factory", KINDS)
def test_models_of_many_kinds_pass_and_are_joined_or_not(tmp_path, export_net, factory):
    inputs, ranges, values, batch = KINDS[factory]
    written = export_net(tmp_path, factory, *inputs, ranges=ranges, values=values)
    proof = written.manifest.proof
    assert proof.verdict == "passed", proof.reason
    assert written.manifest.max_batch_size == batch
    assert proof.batchable is (batch > 0)
    largest = max(i.rms_factor for i in proof.judgements if not i.extreme and i.rms_factor)
    assert largest <= 4 / 1.5


def test_a_mask_that_leaves_nothing_says_what_to_draw(tmp_path, export_net):
    inputs, ranges, values, _ = KINDS["Encoder"]
    values = {"tokens": values["tokens"]}
    proof = export_net(tmp_path, "Encoder", *inputs, ranges=ranges, values=values).manifest.proof
    assert (
        "values are NaN (--values hidden=0:1 draws False only, should all True have no meaning)"
        in proof.reason
    )


def test_a_head_of_zeros_is_vacuous(tmp_path, export_net):
    proof = export_net(tmp_path, "ZeroHead", X).manifest.proof
    assert "'output' on random inputs is vacuous" in proof.reason
    allowed = ProofOptions(allow_constant=frozenset({"output"}))
    assert export_net(tmp_path, "ZeroHead", X, proof=allowed).folder.name == "2"


def test_values_outside_an_embedding_say_what_to_narrow(tmp_path, export_net):
    with pytest.raises(ExportError, match=r"fails on random inputs .*--values"):
        export_net(tmp_path / "r", "Tokens", "tokens:int64[batch,4]", values={"tokens": (0, 900)})
    assert list(tmp_path.iterdir()) == []


def test_samples_of_the_user_are_proved_and_kept(tmp_path, export_net):
    rows = np.random.RandomState(0).standard_normal((10, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    written = export_net(tmp_path / "r", "Linear", X, samples=tmp_path / "rows.npz")
    real = next(i for i in written.manifest.proof.judgements if i.kind == "real")
    assert (real.samples, real.verdict) == (10, "passed")


def test_the_built_in_model_is_proved_on_real_digits(lenet):
    proof = lenet.manifest.proof
    assert proof.verdict == "passed", proof.reason
    assert {i.kind for i in proof.judgements} == {"real", "random", "zeros", "constant", "large"}
    labels = proof.labels
    assert labels.dataset == "scikit-learn digits"
    assert labels.samples == 1797
    assert labels.agreeing + labels.excused == 1797
    assert lenet.manifest.labels == tuple("0123456789")
    assert (lenet.folder.parent / "labels.txt").read_text() == "".join(f"{i}\n" for i in range(10))
    config = read_config(lenet.folder.parent / "config.pbtxt")
    assert config.output[0].label_filename == "labels.txt"


PROGRAM = """
import sys
from pathlib import Path
from exporter.pipeline import ExportRequest, export_model
from exporter.parity import ProofOptions
from exporter.source import SourceRequest
request = ExportRequest(SourceRequest("lenet5"), Path(sys.argv[1]), proof=ProofOptions(budget_s=0))
export_model(request)
"""


def test_two_processes_with_other_hash_seeds_write_the_same_bytes(tmp_path):
    runs = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / seed)],
                         env={"PYTHONHASHSEED": seed, "PATH": "", "HOME": str(tmp_path)},
                         cwd=tmp_path)
        for seed in ("1", "4242")
    ]  # fmt: skip
    assert [run.wait() for run in runs] == [0, 0]
    for file in ("model.onnx", "golden.safetensors"):
        one, two = (tmp_path / seed / "lenet5" / "1" / file for seed in ("1", "4242"))
        assert one.read_bytes() == two.read_bytes(), file


@pytest.mark.mnist
def test_with_mnist_all_ten_thousand_labels_are_compared(tmp_path):
    if not os.environ.get("TWINPORT_DATA"):
        pytest.skip("TWINPORT_DATA names no folder with MNIST")
    request = ExportRequest(SourceRequest("lenet5"), tmp_path / "repository")
    labels = export_model(request).manifest.proof.labels
    assert (labels.dataset, labels.samples) == ("MNIST test", 10_000)
    assert labels.agreeing + labels.excused == 10_000
    assert labels.artifact_accuracy >= 0.995
