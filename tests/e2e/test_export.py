"""`twinport export`, `parity` and `inspect` as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

TWINPORT = (str(Path(sys.executable).parent / "twinport"),)
NET = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

class Branching(nn.Module):
    def forward(self, input):
        return input * 2 if input.sum() > 0 else input * 3

branching = Branching
"""


def environment(**more: str) -> dict[str, str]:
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", **more}


def twinport(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TWINPORT, *map(str, words)], cwd=folder, env=environment(), capture_output=True,
        text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A user's folder whose own package is called ``models``, and what export printed there."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "models").mkdir()
    (folder / "models" / "__init__.py").write_text("")
    (folder / "models" / "net.py").write_text(NET)
    ran = twinport(folder, "export", "models.net:make", "--input", "input:float32[batch,4]",
                   "-o", "repository", "--json")  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    return folder, json.loads(ran.stdout)


def test_a_users_package_called_models_is_exported(exported):
    folder, record = exported
    assert record["source"]["factory"] == "models.net:make"
    assert record["proofs"][0]["verdict"] == "passed"
    assert (folder / "repository" / "make" / "1" / "model.onnx").is_file()
    manifest = (folder / "repository" / "make" / "1" / "manifest.json").read_text()
    assert str(folder) not in manifest
    assert str(Path.home()) not in manifest


def test_built_in_models_are_found_beside_it(exported):
    ran = twinport(exported[0], "inspect", "lenet5")
    assert ran.returncode == 0, ran.stderr
    assert "61,706 parameters" in ran.stdout


def test_a_failure_is_one_line_after_the_progress_whatever_torch_prints(exported):
    ran = twinport(exported[0], "export", "models.net:branching", "--input",
                   "input:float32[batch,4]", "-o", "other")  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    loading, exporting, failure = ran.stderr.splitlines()
    assert loading == "loading models.net:branching"
    assert exporting.startswith("exporting models.net.Branching")
    assert failure.startswith("twinport: torch.export cannot capture Branching: ")
    assert not (exported[0] / "other").exists()


def test_parity_replays_without_torch_and_onnx(exported):
    folder, _ = exported
    code = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'exporter', 'models'): sys.modules[name] = None\n"
        "from runtime.cli import main; sys.exit(main())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, "parity", "repository/make", "--json"], cwd=folder,
        env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["verdict"] == "passed"


def test_a_killed_export_leaves_no_version(exported):
    """The kill comes while the proof runs: the artifact is there, its version is not."""
    folder, _ = exported
    process = subprocess.Popen(
        [*TWINPORT, "export", "models.net:make", "--input", "input:float32[batch,4]",
         "-o", "repository"],
        cwd=folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("proving"):
            break
    process.kill()
    process.wait()
    process.stderr.close()
    visible = {path.name for path in (folder / "repository" / "make").iterdir()
               if not path.name.startswith(".")}  # fmt: skip
    assert visible == {"1", "config.pbtxt"}
    assert twinport(folder, "parity", "repository/make").returncode == 0


def test_netron_serves_the_graph_and_nothing_beside_it_until_ctrl_c(exported):
    folder, _ = exported
    process = subprocess.Popen(
        [*TWINPORT, "inspect", "repository/make", "--netron"], cwd=folder,
        env=environment(PYTHONUNBUFFERED="1"), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("Netron shows"))
        address = next(word for word in line.split() if word.startswith("http://"))
        assert address.startswith("http://127.0.0.1:")
        assert b"<html" in fetched(f"{address}/").lower()
        model = folder / "repository" / "make" / "1" / "model.onnx"
        assert fetched(f"{address}/data/model.onnx") == model.read_bytes()
        for name in ("manifest.json", "golden.safetensors", "../config.pbtxt"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                fetched(f"{address}/data/{name}")
            caught.value.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert process.stdout.read().endswith("stopped\n")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def fetched(address: str) -> bytes:
    for _ in range(50):
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError:
            raise
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")
