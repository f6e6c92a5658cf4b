"""The command: progress on stderr, the result on stdout, one line where it fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from onnx import TensorProto, helper

NETS = Path(__file__).parent.parent / "nets.py"
RTX = ("--flavour", "tensorrt-rtx")


@pytest.fixture
def repository(linear, tmp_path):
    shutil.copytree(linear.folder.parent.parent, tmp_path / "r")
    return tmp_path / "r"


def test_the_engine_is_shown_and_its_progress_is_on_stderr(run, repository):
    code, out, err = run("engine", repository / "linear", *RTX, "--profile", "batch=1,4,16")
    assert code == 0
    assert err.startswith("building linear_rtx from linear/1 with TensorRT-RTX ")
    assert len(err.splitlines()) > 2
    assert out.startswith("linear_rtx version 1: ")
    assert "[1, 4]     [4, 4]      [16, 4]" in out
    assert "TF32 off" in out
    assert out.splitlines()[-1].endswith(str(repository / "linear_rtx" / "1"))


def test_json_is_the_manifest_with_the_folder(run, repository):
    code, out, _ = run(
        "engine", repository / "linear", *RTX, "--json", "--name", "quick",
        "--optimization-level", 0, "--workspace", 64, "--tf32",
        "--compute-capability", "8.9", "--compute-capability", "12.0",
    )  # fmt: skip
    assert code == 0
    record = json.loads(out)
    assert record["folder"] == str(repository / "quick" / "1")
    engine = record["artifact"]["engine"]
    assert engine["optimization_level"] == 0
    assert engine["workspace_bytes"] == 64 << 20
    assert not engine["version_compatible"]
    assert engine["tf32"]
    assert engine["compute_capabilities"] == ["8.9", "12.0"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "REPOSITORY/NAME"),
        (("r/gone",), 1, "there is no folder r/gone; give REPOSITORY/NAME"),
        (("r/linear", "--version", "7"), 1, "has no version 7; there are 1"),
        (("r/linear", "--flavour", "trt"), 2, "'trt' is not one of"),
        (("r/linear", "--profile", "batch=1,2"), 2, "wanted the form 'batch=1,8,64'"),
        (("r/linear", "--profile", "batch=4,2,8"), 1, "are in no order"),
        (("r/linear", "--profile", "n=1,2,4"), 1, "'n', which is no free axis of x float32"),
        (("r/linear", "--profile", "batch=1,2,65"), 1, "export it with a wider --range"),
        (("r/linear", "--optimization-level", "6"), 2, "--optimization-level"),
        (("r/linear", "--workspace", "0"), 2, "--workspace"),
        (("r/linear", *RTX, "--timing-cache", "c"), 2, "has no timing cache"),
        (("r/linear", *RTX, "--hardware-compatibility", "ampere_plus"), 2, "--compute-capability"),
        (("r/linear", *RTX, "--version-compatible"), 2, "engines of its own version only"),
        (("r/linear", *RTX, "--compute-capability", "9.0"), 1, "no target for compute capability"),
        (
            ("r/linear", *RTX, "--check", "--name", "quick", "--profile", "batch=1,2,4"),
            2,
            "--check builds nothing; leave --name, --profile out",
        ),
        (("r/linear", "--check", "--optimization-level", "3"), 2, "leave --optimization-level out"),
        (("r/linear", "--check", "--tf32", "--timing-cache", "c"), 2, "--timing-cache, --tf32 out"),
        (("r/linear", "--name", "a b"), 1, "model name 'a b' cannot be used"),
        (("r/linear", "--name", "linear"), 1, "has backend 'onnxruntime'"),
    ],
)
def test_wrong_words_are_refused_and_leave_nothing(
    run, repository, monkeypatch, words, code, text
):  # fmt: skip
    monkeypatch.chdir(repository.parent)
    before = sorted(repository.rglob("*"))
    given, out, err = run("engine", *words)
    assert given == code
    assert text in err
    assert out == ""
    assert "Traceback" not in err
    if text != "REPOSITORY/NAME" and not err.startswith("Usage"):
        assert len(err.splitlines()) == 1
    assert sorted(repository.rglob("*")) == before


def test_check_lists_every_node_and_writes_nothing(run, repository):
    before = sorted(repository.rglob("*"))
    code, out, _ = run("engine", repository / "linear", *RTX, "--check")
    assert code == 0
    assert "takes 1 of 1 nodes" in out
    code, out, _ = run("engine", repository / "linear", *RTX, "--check", "--json")
    assert code == 0
    assert [node["verdict"] for node in json.loads(out)["nodes"]] == ["taken"]
    assert sorted(repository.rglob("*")) == before


def test_check_exits_1_where_a_node_is_refused(run, tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["r"], name="relu"),
             helper.make_node("NonZero", ["r"], ["y"], name="where")]  # fmt: skip
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 4])]
    gives = [helper.make_tensor_value_info("y", TensorProto.INT64, [2, None])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends, gives),
        opset_imports=[helper.make_opsetid("", 20)], ir_version=10,
    )  # fmt: skip
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    code, out, err = run("engine", tmp_path / "net.onnx", *RTX, "--check")
    assert code == 1
    assert "where: NonZero plugin creator" in out
    assert "--moe-form static" in out
    assert "takes 1 of 2 nodes" in out
    assert err.startswith("twinport: 1 of 2 nodes are not taken, first 'where' (NonZero): ")
    code, out, _ = run("engine", tmp_path / "net.onnx", *RTX, "--check", "--json")
    assert code == 1
    assert [node["verdict"] for node in json.loads(out)["nodes"]] == ["taken", "refused"]


def test_export_ends_with_the_engine(run, tmp_path):
    words = (f"{NETS}:Linear", "--input", "x:float32[batch,4]", "-o", tmp_path, "--engine", *RTX)
    quick = ("--proof-budget", 0, "--profile", "batch=1,2,8")
    code, out, err = run("export", *words, *quick, "--json")
    assert code == 0
    record = json.loads(out)
    assert record["proofs"][0]["verdict"] == "passed"
    assert record["engine"]["folder"] == str(tmp_path / "linear_rtx" / "1")
    assert record["engine"]["max_batch_size"] == 8
    lines = err.splitlines()
    assert lines.index(f"passed: {tmp_path / 'linear' / '1'}") < lines.index("Building engine")
    code, out, _ = run("export", *words, *quick)
    assert code == 0
    assert f"passed: {tmp_path / 'linear' / '2'}" in out
    assert out.splitlines()[-1].endswith(str(tmp_path / "linear_rtx" / "2"))


def test_export_refuses_options_of_an_engine_without_one(run, tmp_path):
    words = ("export", f"{NETS}:Linear", "--input", "x:float32[batch,4]", "-o", tmp_path)
    for more in (RTX, ("--profile", "batch=1,2,3")):
        code, _, err = run(*words, *more)
        assert code == 2
        assert "add --engine" in err
