"""The command: progress on stderr, the result on stdout, one line where it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import exporter.pipeline as pipeline

NETS = Path(__file__).parent.parent / "nets.py"
LINEAR = (f"{NETS}:Linear", "--input", "x:float32[batch,4]")


def test_the_proof_is_a_table_with_its_tolerances(run, tmp_path):
    code, out, err = run("export", *LINEAR, "-o", tmp_path / "r", "--proof-budget", 0)
    assert code == 0
    assert err.splitlines() == [
        f"loading {LINEAR[0]}", "exporting nets.Linear, 15 parameters",
        "proving against PyTorch in float64",
    ]  # fmt: skip
    assert out.startswith("linear version 1: onnxruntime ")
    assert "(max 4)" in out
    assert "(max 8)" in out
    assert "batchable: joined requests gave the separate answers" in out
    assert f"passed: {tmp_path / 'r' / 'linear' / '1'}" in out


def test_json_is_one_object_on_stdout(run, tmp_path):
    code, out, err = run("export", *LINEAR, "-o", tmp_path / "r", "--json", "--name", "mine",
                         "--seed", 7, "--opset", 18, "--range", "batch=1:8")  # fmt: skip
    assert code == 0
    record = json.loads(out)
    assert record["folder"] == str(tmp_path / "r" / "mine" / "1")
    assert record["name"] == "mine"
    assert record["proofs"][0]["verdict"] == "passed"
    assert record["proofs"][0]["seed"] == 7
    assert record["artifact"]["opset"] == 18
    assert record["max_batch_size"] == 8
    assert err


STACKED = (f"{NETS}:Stacked", "--input", "x:float32[batch,8]", "--proof-budget", 0)


def test_lower_precisions_are_shown_after_the_one_in_fp32(run, tmp_path):
    code, out, err = run("export", *STACKED, "-o", tmp_path / "r", "--precision", "fp16",
                         "--keep", "first")  # fmt: skip
    assert code == 0
    assert "lowering to fp16, measured on 6 calls with drawn inputs" in err
    assert out.index("stacked version 1: onnxruntime") < out.index("stacked_fp16 version 1:")
    assert "dB (min 40)" in out
    assert "kept fp32: first (1 operator): kept by --keep" in out
    assert f"passed: {tmp_path / 'r' / 'stacked_fp16' / '1'}" in out


def test_json_has_each_precision_under_its_name(run, tmp_path):
    code, out, _ = run("export", *STACKED, "-o", tmp_path, "--precision", "fp32",
                       "--precision", "fp16", "--json")  # fmt: skip
    assert code == 0
    record = json.loads(out)
    assert record["artifact"]["precision"] == "fp32"
    assert list(record["precisions"]) == ["fp16"]
    assert record["precisions"]["fp16"]["artifact"]["lowering"]["onnx"] == "stacked/1"


@pytest.mark.parametrize(("words", "code", "text"), [
    (("--keep", "first"), 2, "--keep is of a lower precision"),
    (("--precision", "fp8"), 2, "fp8"),
    (("--precision", "int8"), 1, "give some with --samples FILE.npz"),
    (("--precision", "fp16", "--keep", "third"), 1, "there are first, second"),
])  # fmt: skip
def test_a_precision_that_cannot_be_is_one_line_and_leaves_nothing(
    run, tmp_path, words, code, text
):
    found, out, err = run("export", *STACKED, "-o", tmp_path / "r", *words)
    assert (found, out) == (code, "")
    assert text in err.splitlines()[-1]
    assert not (tmp_path / "r").exists()


@pytest.fixture
def perturbing(monkeypatch):
    import onnx_ir as ir

    def plant(model):
        value = next(v for v in model.graph.initializers.values() if len(v.shape) == 2)
        value.const_value = ir.tensor(value.const_value.numpy() * 1.01, name=value.name)
        return model, True

    monkeypatch.setattr(pipeline, "passes_for", lambda *_: (plant,))


@pytest.mark.usefixtures("perturbing")
def test_a_failed_proof_exits_1_after_showing_all_numbers(run, tmp_path):
    code, out, err = run("export", *LINEAR, "-o", tmp_path)
    assert code == 1
    assert "RMS error is" in out
    assert f"failed: {tmp_path / 'linear' / 'failed' / '1'}" in out
    last = err.splitlines()[-1]
    assert last.startswith("twinport: the proof of linear failed: output 'output' on random")
    code, out, err = run("export", *LINEAR, "-o", tmp_path, "--json")
    assert code == 1
    assert json.loads(out)["proofs"][0]["verdict"] == "failed"


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("lenet6",), 1, "model 'lenet6' is not built in (lenet5"),
        (("gone.py:make",), 1, "gone.py does not exist"),
        ((f"{NETS}:Linear",), 1, "no input is described"),
        ((f"{NETS}:Linear", "--input", "y:float32[n,4]"), 1, "input 'y' is described"),
        ((f"{NETS}:Linear", "--input", "x:float31[n,4]"), 1, "data type 'float31' is not known"),
        ((f"{NETS}:Linear", "--input", "x"), 1, "wanted the form 'x:float32[batch,3,32,32]'"),
        ((*LINEAR, "--opset", 26), 1, "opset 26 is not supported; use 18 to 25"),
        ((*LINEAR, "--range", "batch=a"), 2, "wanted the form 'batch=1:64'"),
        ((*LINEAR, "--range", "seq=1:2"), 1, "--range names the axis 'seq'"),
        ((*LINEAR, "--weights", "gone.pt"), 1, "weights gone.pt do not exist"),
        ((*LINEAR, "--samples", "gone.npz"), 1, "samples gone.npz do not exist"),
        ((*LINEAR, "--proof-budget", "-1"), 2, "--proof-budget"),
        ((*LINEAR, "--proof-budget", "nan"), 2, "nan is not in the range x>=0"),
        ((*LINEAR, "--values", f"x=0:{'9' * 400}"), 1, "wanted finite numbers"),
        ((*LINEAR, "--external-data", f"{'9' * 400}GB"), 2, "is larger than any file"),
        ((*LINEAR, "--name", "a b"), 1, "model name 'a b' cannot be used"),
        ((), 2, "MODEL"),
    ],
)
def test_wrong_words_are_one_line_and_leave_nothing(run, tmp_path, monkeypatch, words, code, text):
    monkeypatch.chdir(tmp_path)
    given, out, err = run("export", *words, "-o", tmp_path / "r")
    assert given == code
    assert text in err
    assert "Traceback" not in err
    assert out == ""
    if code == 1:
        lines = [line for line in err.splitlines() if not line.startswith(("loading", "export"))]
        assert len(lines) == 1
        assert lines[0].startswith("twinport: ")
    assert list(tmp_path.iterdir()) == []


def test_the_repository_must_be_named(run):
    code, _, err = run("export", *LINEAR)
    assert code == 2
    assert "'-o'" in err


def test_parity_replays_what_export_wrote(run, linear):
    code, out, _ = run("parity", linear.folder.parent)
    assert code == 0
    assert "passed: the artifact is the same model here" in out


def plant_in_file(folder, fix_sha):
    import hashlib

    import onnx
    from onnx import numpy_helper

    path = folder / "model.onnx"
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if len(t.dims) == 2)
    array = numpy_helper.to_array(weight).copy()
    array.reshape(-1)[0] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(array, weight.name))
    onnx.save(model, path)
    if fix_sha:
        record = json.loads((folder / "manifest.json").read_text())
        record["artifact"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(record))


def test_parity_finds_one_weight_off_by_one_percent(run, linear, tmp_path):
    shutil.copytree(linear.folder.parent, tmp_path / "linear")
    plant_in_file(tmp_path / "linear" / "1", fix_sha=True)
    code, out, err = run("parity", tmp_path / "linear", "--json")
    assert code == 1
    assert json.loads(out)["verdict"] == "failed"
    assert "RMS error is" in err


def test_parity_refuses_a_file_that_was_changed(run, linear, tmp_path):
    shutil.copytree(linear.folder.parent, tmp_path / "linear")
    plant_in_file(tmp_path / "linear" / "1", fix_sha=False)
    code, _, err = run("parity", tmp_path / "linear")
    assert code == 1
    assert "the file was changed after the proof" in err
    assert len(err.splitlines()) == 1
