"""What inspect prints of a file, a version, a failed version and a module."""

from __future__ import annotations

import json
import shutil

import pytest

from exporter.summary import graph_to_look_at
from runtime.errors import NotFound


def test_a_version_is_shown_with_provenance_and_proof(run, lenet):
    code, out, _ = run("inspect", lenet.folder.parent)
    assert code == 0
    for text in (
        "input image: float32 [batch, 1, 32, 32]", "output logits: float32 [batch, 10]",
        "opset 20", "12 nodes: 4 Relu", "from lenet5 (models.lenet5.LeNet5), 61,706 parameters",
        f"checkpoint sha256 {lenet.manifest.source.checkpoint_sha256[:12]}", "with twinport ",
        "proof on CPUExecutionProvider", "(max 4)", "batchable: ",
    ):  # fmt: skip
        assert text in out


def test_json_of_a_file_is_one_object(run, lenet):
    code, out, _ = run("inspect", lenet.folder / "model.onnx", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["file"] == str(lenet.folder / "model.onnx")
    assert record["operators"]["Conv"] == 2
    assert record["manifest"]["proofs"][0]["verdict"] == "passed"


def test_a_bare_file_says_that_nothing_is_known(run, linear, tmp_path):
    shutil.copy(linear.folder / "model.onnx", tmp_path / "net.onnx")
    code, out, _ = run("inspect", tmp_path / "net.onnx")
    assert code == 0
    assert "no manifest beside it" in out
    assert json.loads(run("inspect", tmp_path / "net.onnx", "--json")[1])["manifest"] is None


def test_a_failed_version_shows_why(run, linear, tmp_path):
    folder = tmp_path / "net" / "failed" / "1"
    shutil.copytree(linear.folder, folder)
    record = json.loads((folder / "manifest.json").read_text())
    record["proofs"][0] |= {"verdict": "failed", "reason": "one weight is off"}
    (folder / "manifest.json").write_text(json.dumps(record))
    code, out, _ = run("inspect", tmp_path / "net")
    assert code == 0
    assert "failed: one weight is off" in out


def test_a_module_is_shown_layer_by_layer(run):
    code, out, _ = run("inspect", "lenet5")
    assert code == 0
    assert "input image: float32 [batch, 1, 32, 32]" in out
    assert "61,706 parameters, 61,706 of them trainable" in out
    (line,) = (line for line in out.splitlines() if line.split()[:1] == ["fc1"])
    assert line.split() == ["fc1", "Linear", "[2,", "120]", "48,120"]
    record = json.loads(run("inspect", "lenet5", "--json")[1])
    assert record["parameters"] == sum(layer["parameters"] for layer in record["layers"]) == 61_706


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("bad.onnx",), 1, "bad.onnx is not an ONNX model"),
        (("gone.onnx",), 1, "gone.onnx does not exist"),
        (("some/where",), 1, "does not exist; give an .onnx file or REPOSITORY/NAME"),
        (("lenet6",), 1, "model 'lenet6' is not built in"),
        (("lenet5", "--netron"), 2, "--netron shows a file and 'lenet5' is none"),
        (("lenet5", "--png", "net.png"), 2, "--png shows a file and 'lenet5' is none"),
        (("lenet5", "--svg", "net.png"), 2, "--svg writes 'net.png' in a format that its suffix"),
        (("bad.onnx", "--autograd", "net.svg"), 2, "--autograd draws a module and 'bad.onnx' is"),
        (("bad.onnx", "--svg", "net.svg"), 1, "bad.onnx is not an ONNX model"),
        (("lenet5", "--autograd", "net.gif"), 1, "another suffix; wanted a picture's, .png or"),
        ((), 2, "MODEL"),
    ],
)
def test_wrong_words_are_refused(run, tmp_path, monkeypatch, words, code, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"no graph in here")
    given, _, err = run("inspect", *words)
    assert given == code
    assert text in err
    if code == 1:
        assert len(err.splitlines()) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["bad.onnx"]


def test_netron_serves_and_opens_nothing(run, linear, monkeypatch):
    class Interrupted:
        def wait(self):
            raise KeyboardInterrupt

    opened = []
    monkeypatch.setattr("exporter.commands.inspect.threading.Event", Interrupted)
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address))
    code, out, err = run("inspect", linear.folder, "--netron", "--json")
    assert code == 0
    json.loads(out)
    assert err.startswith("Netron shows model.onnx at http://127.0.0.1:")
    assert opened == []
    assert "no browser could be opened" in run("inspect", linear.folder, "--browse")[2]
    assert len(opened) == 1


def test_a_file_without_a_graph_to_draw_is_said_before_a_browser_is_looked_for(linear, tmp_path):
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"ftrt" + bytes(24))
    with pytest.raises(NotFound, match=r"model.engine is an engine without view.onnx beside it"):
        graph_to_look_at(engine)
    shutil.copy(linear.folder / "model.onnx", tmp_path / "view.onnx")
    assert graph_to_look_at(engine) == tmp_path / "view.onnx"
    assert graph_to_look_at(linear.folder / "model.onnx") == linear.folder / "model.onnx"


@pytest.mark.needs_tool("dot", "apt-get install graphviz")
def test_the_autograd_graph_of_a_module_is_drawn_and_what_gets_no_gradient_named(run, tmp_path):
    code, out, _ = run("inspect", "lenet5", "--autograd", tmp_path / "net.pdf")
    assert code == 0
    assert out.endswith(f"autograd graph: {tmp_path / 'net.pdf'}\nno gradient for input image\n")
    assert (tmp_path / "net.pdf").read_bytes().startswith(b"%PDF")
    record = json.loads(run("inspect", "lenet5", "--autograd", tmp_path / "n.svg", "--json")[1])
    assert record["autograd"]["no_gradient"] == {"input image": "input"}
