"""``parity --layers``: the module at fault by name, with the weights that were exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.torch import save_file
from torch import nn

from exporter import pipeline
from exporter.commands.layers import proof_of_version
from runtime.backends.base import BackendOptions
from runtime.errors import RepositoryError
from runtime.manifest import FILE_NAME, read_manifest

NETS = Path(__file__).parent.parent / "nets.py"
LINEAR = (f"{NETS}:Linear", "--input", "x:float32[batch,4]")


@pytest.fixture
def here(monkeypatch):
    """The folder that holds the factory's file, since a manifest names no folder."""
    monkeypatch.chdir(NETS.parent)


@pytest.fixture
def perturbing(monkeypatch):
    """Exports get a weight of ``layer`` that is wrong by one per cent."""

    def plant(model):
        value = next(v for v in model.graph.initializers.values() if len(v.shape) == 2)
        changed = value.const_value.numpy().copy()
        changed.reshape(-1)[0] *= np.float32(1.01)
        value.const_value = ir.tensor(changed, name=value.name)
        return model, True

    monkeypatch.setattr(pipeline, "passes_for", lambda *_: (plant,))


def test_a_sound_version_shows_every_module_and_how_it_was_read(run, lenet):
    code, out, err = run("parity", lenet.folder.parent, "--layers")
    assert (code, err) == (0, "")
    for module in ("conv1 (Conv2d)", "relu1 (ReLU)", "fc3 (Linear)"):
        assert module in out
    assert "12 values of 12 modules, read with no optimisation and with full optimisation" in out
    assert "every module is within its local budget" in out


def test_json_holds_rows_with_nodes_beside_the_replay(run, lenet):
    code, out, _ = run("parity", lenet.folder.parent, "--layers", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["verdict"] == "passed"
    layers = record["layers"]
    assert layers["passed"] is True
    assert layers["levels"] == ["no optimisation", "full optimisation"]
    assert [row["module"] for row in layers["rows"]][:2] == ["conv1", "relu1"]
    assert layers["rows"][0]["operators"] == ["Conv"]
    assert layers["rows"][0]["local"]["rms_limit"] == 4


@pytest.mark.usefixtures("perturbing", "here")
def test_a_failing_export_names_the_module_on_the_console_and_in_the_manifest(run, tmp_path):
    code, out, err = run("export", *LINEAR, "-o", tmp_path)
    assert code == 1
    lines = err.splitlines()
    assert "the proof failed; looking for the module at fault" in lines
    assert "the first module over its local budget is layer (Linear)" in lines[-1]
    assert "node node_linear (Gemm)" in lines[-1]
    folder = tmp_path / "linear" / "failed" / "1"
    proof = read_manifest(folder / FILE_NAME).proof
    assert proof.diverges is not None
    assert proof.diverges.modules == ("layer",)
    assert proof.diverges.nodes == ("node_linear",)
    assert proof.diverges.level == "plain"
    assert proof.diverges.rms_factor > 4
    assert proof.reason.endswith(proof.diverges.text)
    code, out, err = run("parity", tmp_path / "linear", "--layers")
    assert code == 1
    assert err.startswith("twinport: linear version 1: the first module over its local budget is ")
    assert err.count("\n") == 1
    assert "failed" in out


def test_the_factorys_file_is_looked_for_here_or_given(run, linear, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("parity", linear.folder.parent, "--layers")
    assert code == 1
    assert "nets.py does not exist" in err
    assert "the manifest names no folder: run where the module lies, or give --source" in err
    code, out, err = run("parity", linear.folder.parent, "--layers", "--source", f"{NETS}:Linear")
    assert (code, err) == (0, "")
    assert "layer (Linear)" in out


@pytest.mark.usefixtures("here")
def test_other_weights_than_were_exported_are_refused(run, linear, tmp_path):
    path = tmp_path / "other.safetensors"
    layer = nn.Linear(4, 3)
    save_file({f"layer.{name}": value for name, value in layer.state_dict().items()}, path)
    code, _, err = run("parity", linear.folder.parent, "--layers", "--weights", path)
    assert code == 1
    assert err.startswith("twinport: nets.py:Linear with other.safetensors has other weights than")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("here")
def test_weights_that_are_the_exported_ones_are_taken(run, export_net, linear, tmp_path):
    from exporter.layer_proof.proved_source import source_of_version

    source = source_of_version(linear.manifest)
    path = tmp_path / "same.safetensors"
    save_file(dict(source.module.state_dict()), path)
    code, _, err = run("parity", linear.folder.parent, "--layers", "--weights", path)
    assert (code, err) == (0, "")


def test_weights_without_layers_are_wrong_usage(run, linear):
    code, _, err = run("parity", linear.folder.parent, "--weights", "w.pt")
    assert code == 2
    assert "--weights and --source are of --layers" in err


def test_weights_that_do_not_exist_are_named(run, lenet):
    code, _, err = run("parity", lenet.folder.parent, "--layers", "--weights", "gone.pt")
    assert code == 1
    assert "weights gone.pt do not exist" in err
    assert "--source" not in err


def test_a_precision_that_nothing_here_runs_is_refused(lenet):
    artifact = replace(lenet.manifest.artifact, precision="bf16")
    manifest = replace(lenet.manifest, artifact=artifact)
    with pytest.raises(RepositoryError, match=r"bf16.*no kernels.*cannot be read here"):
        proof_of_version(lenet.folder, manifest, None, None, BackendOptions())
