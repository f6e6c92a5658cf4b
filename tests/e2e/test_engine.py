"""`twinport engine` as a process of its own: what it writes, and that Ctrl-C leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.backends.plan import read_header

TWINPORT = str(Path(sys.executable).parent / "twinport")
NET = """
from torch import nn

def make():
    return nn.Linear(4, 3)
"""
INTERRUPTED = """
import os, signal, sys
from exporter.engine import build, progress
from runtime.cli import main

# Ctrl-C comes at the fifth step of the real builder, which is held until it has arrived.
interruptible, held = build.interruptible, {}

def with_event(work):
    def watched(cancel):
        held["cancel"] = cancel
        return work(cancel)
    return interruptible(watched)

steps = []

def stepped(self, phase, step):
    steps.append(phase)
    if len(steps) == 5:
        os.kill(os.getpid(), signal.SIGINT)
        held["cancel"].wait(60)

build.interruptible = with_event
progress.BuildView.stepped = stepped
code = main(sys.argv[1:])
print(len(steps), "steps")
sys.exit(code)
"""


def run(folder: Path, *words: str, program: tuple[str, ...] = (TWINPORT,)):
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    return subprocess.run(
        [*program, *words], cwd=folder, env={**kept, "LC_ALL": "C.UTF-8"}, capture_output=True,
        text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a proved model and its engine."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "net.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Linear(4, 3)\n"
    )
    ran = run(
        folder, "export", "net.py:make", "--input", "input:float32[batch,4]", "-o", "repository",
        "--proof-budget", "0", "--engine", "--flavour", "tensorrt-rtx", "--json",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["engine"]["folder"] == "repository/make_rtx/1"
    return folder


def test_the_engine_lies_beside_the_version_and_names_no_path_of_the_machine(folder):
    ran = run(folder, "engine", "repository/make", "--flavour", "tensorrt-rtx", "--json")
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    version = folder / "repository" / "make_rtx" / "2"
    assert read_header(version / "model.engine").flavour.name == "tensorrt_rtx"
    for name in ("manifest.json", "layers.json", "view.onnx"):
        assert str(folder).encode() not in (version / name).read_bytes()
    shown = run(folder, "inspect", "repository/make_rtx")
    assert shown.returncode == 0, shown.stderr
    assert "built from make/1" in shown.stdout


def test_torch_is_not_needed(folder):
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'models'): sys.modules[name] = None\n"
        "from runtime.cli import main; sys.exit(main())"
    )
    ran = run(folder, "engine", "repository/make", "--name", "without", "--flavour", "tensorrt_rtx",
              program=(sys.executable, "-c", code))  # fmt: skip
    assert ran.returncode == 0, ran.stderr


def test_ctrl_c_stops_the_builder_exits_130_and_leaves_no_file(folder):
    shutil.copytree(folder / "repository" / "make", folder / "other" / "make")
    before = sorted((folder / "other").rglob("*"))
    ran = run(folder, "engine", "other/make", "--flavour", "tensorrt_rtx",
              program=(sys.executable, "-c", INTERRUPTED))  # fmt: skip
    assert ran.returncode == 130, ran.stderr
    assert ran.stderr.splitlines()[-1] == "twinport: interrupted"
    assert "Traceback" not in ran.stderr
    assert int(ran.stdout.split()[0]) < 20, "the builder went on"
    assert sorted((folder / "other").rglob("*")) == before
