"""What inspect says of an engine, which nothing here can load."""

from __future__ import annotations

import json
import shutil

import pytest

from exporter.engine.summary import engine_summary, holds_engine
from exporter.summary import artifact_file
from runtime.errors import NotFound, RepositoryError


def test_an_engine_is_shown_with_profiles_layers_and_its_pending_proof(run, lenet_engine):
    code, out, _ = run("inspect", lenet_engine.folder.parent)
    assert code == 0
    for text in (
        "input image: float32 [batch, 1, 32, 32]", "engine, fp32, TF32 off, optimisation level 3",
        "built from lenet5/1", "24 layers: 6 CONSTANT", "24 of them from 12 modules",
        "[1, 1, 32, 32]   [8, 1, 32, 32]   [64, 1, 32, 32]", "conv1     Conv2d      1 CONVOLUTION",
        "from lenet5 (models.lenet5.LeNet5)", "batchable: ",
    ):  # fmt: skip
        assert text in out


def test_json_has_header_layers_and_manifest(run, rtx, lenet_engine):
    record = json.loads(run("inspect", lenet_engine.folder, "--json")[1])
    assert (record["flavour"], record["version"]) == ("tensorrt_rtx", rtx.version)
    assert record["layers"]["CONVOLUTION"] == 2
    assert len(record["network"]["layers"]) == 24
    assert record["manifest"]["artifact"]["engine"]["onnx"] == "lenet5/1"


def test_an_engine_alone_says_what_its_header_says(run, rtx, lenet_engine, tmp_path):
    shutil.copy(lenet_engine.folder / "model.engine", tmp_path / "some.engine")
    code, out, _ = run("inspect", tmp_path / "some.engine")
    assert code == 0
    assert f"TensorRT-RTX {rtx.version} engine" in out
    assert "no manifest beside it" in out


def test_a_cut_or_foreign_file_is_one_line(run, lenet_engine, tmp_path):
    shutil.copytree(lenet_engine.folder, tmp_path / "1")
    engine = tmp_path / "1" / "model.engine"
    engine.write_bytes(engine.read_bytes()[:-1])
    code, _, err = run("inspect", engine)
    assert code == 1
    assert "the engine is cut or was changed" in err
    assert len(err.splitlines()) == 1
    engine.write_bytes(b"something else")
    assert holds_engine(engine)
    with pytest.raises(RepositoryError, match="is no TensorRT engine"):
        engine_summary(engine)


def test_the_view_is_not_taken_for_an_artifact(lenet_engine, tmp_path):
    assert artifact_file(lenet_engine.folder).name == "model.engine"
    (tmp_path / "m" / "1").mkdir(parents=True)
    shutil.copy(lenet_engine.folder / "view.onnx", tmp_path / "m" / "1")
    with pytest.raises(NotFound, match="is incomplete"):
        artifact_file(tmp_path / "m")


def test_a_sound_engine_contradicts_nothing(run, lenet_engine):
    assert "warning:" not in run("inspect", lenet_engine.folder)[1]
    assert json.loads(run("inspect", lenet_engine.folder, "--json")[1])["troubles"] == []


def test_a_header_that_contradicts_the_manifest_is_what_is_shown(run, rtx, lenet_engine, tmp_path):
    shutil.copytree(lenet_engine.folder, tmp_path / "1")
    engine = tmp_path / "1" / "model.engine"
    engine.write_bytes(b"ftrt" + engine.read_bytes()[4:])
    code, out, _ = run("inspect", engine)
    assert code == 0
    assert (
        f"warning: its header says TensorRT {rtx.version}, the manifest TensorRT-RTX "
        f"{rtx.version}; build the engine again\n"
    ) in out
    assert f"\nTensorRT {rtx.version} engine, fp32, TF32 off" in out
    record = json.loads(run("inspect", engine, "--json")[1])
    assert record["flavour"] == "tensorrt"
    assert len(record["troubles"]) == 2


def test_an_engine_that_is_not_the_manifests_is_told_in_one_line(run, lenet_engine, tmp_path):
    shutil.copytree(lenet_engine.folder, tmp_path / "1")
    engine = tmp_path / "1" / "model.engine"
    data = bytearray(engine.read_bytes())
    data[-1] ^= 1
    engine.write_bytes(data)
    warnings = [line for line in run("inspect", engine)[1].splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "model.engine has sha256 " in warnings[0]
    assert warnings[0].endswith("changed after the proof, build the engine again")
    engine.rename(engine.with_name("other.engine"))
    out = run("inspect", engine.with_name("other.engine"))[1]
    assert "warning: the manifest beside it is of 'model.engine', not of this engine\n" in out
