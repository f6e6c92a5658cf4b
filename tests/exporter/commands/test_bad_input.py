"""Whatever is wrong with a model, its weights or the disk: one line, exit 1, nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import exporter.pipeline as pipeline
from exporter.source import SourceRequest, load_source
from runtime.tensors import spec_from_text

CODE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
    def forward(self, x):
        print("the user's module prints")
        return self.layer(x)

class Number(nn.Module):
    def forward(self, x):
        return x.sum().item()

def broken():
    raise ValueError("no such luck")

three = 3
"""
X = ("--input", "x:float32[batch,4]")


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def there(tmp_path, linear, monkeypatch):
    """A user's folder with code, weights of all conditions and a repository with a version."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(linear.folder.parent.parent, tmp_path / "repository")
    (tmp_path / "net.py").write_text(CODE)
    (tmp_path / "bad.py").write_text("import nowhere_to_be_found\n")
    torch.save({"layer.weight": torch.ones(3, 4), "layer.bias": torch.ones(3)}, "good.pt")
    torch.save({"layer.weight": torch.ones(3, 4), "layer.bais": torch.ones(3)}, "key.pt")
    Path("cut.pt").write_bytes(Path("good.pt").read_bytes()[:400])
    Path("cut.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    Path("cut.pt2").write_bytes(b"PK\3\4")
    np.savez("wrong.npz", y=np.ones((2, 4), np.float32))
    return tmp_path


BAD = {
    "no such file": (["gone.py:make", *X], "gone.py does not exist"),
    "no such package": (["gone.net:make", *X], "no module 'gone' from here"),
    "no such factory": (["net.py:make", *X], "net.py has no 'make'"),
    "no factory named": (["net.py", *X], "names no factory; add the function's name: net.py:make"),
    "no module": (["net.py:three", *X], "net.py:three failed: TypeError: 'int' object is not"),
    "a factory that raises": (["net.py:broken", *X], "net.py:broken failed: ValueError: no such"),
    "an import that fails": (["bad.py:make", *X], "bad.py fails on import: ModuleNotFoundError"),
    "no input": (["net.py:Net"], "no input is described and forward takes x; add --input"),
    "another input": (["net.py:Net", "--input", "y:float32[4]"], "forward takes x"),
    "another shape": (["net.py:Net", "--input", "x:float32[n,5]"], "fails on x [2, 5] in module"),
    "no tensor": (["net.py:Number", *X], "the module returns a float as its output"),
    "no weights": (["net.py:Net", *X, "--weights", "gone.pt"], "weights gone.pt do not exist"),
    "a wrong key": (["net.py:Net", *X, "--weights", "key.pt"],
                    "key.pt has no 'layer.bias', which the module wants (1 missing, 1 not known: "
                    "'layer.bais')"),
    "a cut pickle": (["net.py:Net", *X, "--weights", "cut.pt"], "cut.pt is damaged"),
    "a cut safetensors": (["net.py:Net", *X, "--weights", "cut.safetensors"],
                          "cut.safetensors is no safetensors file"),
    "a cut program": (["cut.pt2"], "cut.pt2 is no file of torch.export.save"),
    "no program": (["gone.pt2"], "gone.pt2 does not exist"),
    "no model of torchvision": (["torchvision:resnet17"], "there are resnet18"),
    "other samples": (["net.py:Net", *X, "--samples", "wrong.npz"], "wrong.npz holds y; the model"),
    "no samples": (["net.py:Net", *X, "--samples", "gone.npz"], "samples gone.npz do not exist"),
    "no inner module": (["net.py:Net", *X, "--also-output", "fc1"], "'fc1', which is no module"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_source_is_one_line_and_the_repository_as_it_was(run, there, what):
    words, text = BAD[what]
    before = tree(there / "repository")
    code, out, err = run("export", *words, "-o", "repository")
    *progress, last = err.splitlines()
    assert (code, out) == (1, ""), err
    assert last.startswith("twinport: ")
    assert text in last
    known = ("loading ", "exporting ", "the user's module prints")
    assert all(line.startswith(known) for line in progress), progress
    assert tree(there / "repository") == before


def test_what_the_users_module_prints_does_not_get_into_the_json(run, there):
    code, out, err = run("export", "net.py:Net", *X, "-o", "repository", "--json",
                         "--proof-budget", 0)  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["proofs"][0]["verdict"] == "passed"
    assert "the user's module prints" in err
    code, out, err = run("inspect", "net.py:Net", *X, "--json")
    assert (code, json.loads(out)["parameters"]) == (0, 15)
    assert "the user's module prints" in err


@pytest.fixture
def known(there, monkeypatch):
    """The graph is made before, so that a loop over disks need not wait for torch."""
    source = load_source(SourceRequest("net.py:Net", None, (spec_from_text(X[1]),)))
    graph = pipeline._graph(source, 20, (pipeline.strip_provenance,))
    monkeypatch.setattr(pipeline, "_graph", lambda *_: graph)
    monkeypatch.setattr(pipeline, "load_prepared", lambda *_: source)


def mounted(place: Path, options: str) -> bool:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def mount(tmp_path) -> Iterator[object]:
    """Mount a small file system; skips where that is not permitted."""
    places: list[Path] = []

    def make(name: str, options: str) -> Path:
        place = tmp_path / name
        if not mounted(place, options):
            pytest.skip("mounting a small file system is not permitted here")
        places.append(place)
        return place

    yield make
    for place in places:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.usefixtures("known")
def test_a_full_disk_is_one_line_wherever_it_runs_full(run, there, mount):
    """Of each size the file system is full at another file of the version."""
    sizes = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    refused = []
    for size in sizes:
        disk = mount(f"disk{size}", f"size={size}k")
        code, out, err = run("export", "net.py:Net", *X, "-o", disk / "repository",
                             "--proof-budget", 0)  # fmt: skip
        if code == 0:
            break
        refused.append(size)
        assert (code, out) == (1, "")
        assert "No space left on device" in err.splitlines()[-1]
        assert list(disk.iterdir()) == []
    assert len(refused) >= 3, "the disks of the test are too large"
    assert len(refused) < len(sizes), "the disks of the test are too small"


@pytest.mark.usefixtures("known")
def test_a_full_disk_leaves_the_versions_that_are_there(run, there, mount):
    disk = mount("disk", "size=256k")
    shutil.copytree(there / "repository", disk / "repository")
    used = shutil.disk_usage(disk)
    (disk / "ballast").write_bytes(b"\0" * (used.free - 8192))
    before = tree(disk)
    for name in ("linear", "new"):
        code, _, err = run("export", "net.py:Net", *X, "-o", disk / "repository", "--name", name,
                           "--proof-budget", 0)  # fmt: skip
        assert code == 1
        assert "No space left on device" in err.splitlines()[-1]
        assert tree(disk) == before


@pytest.mark.usefixtures("known")
def test_a_repository_that_cannot_be_written_is_refused_before_any_work(
    run, there, mount, monkeypatch
):
    disk = mount("disk", "size=1m")
    shutil.copytree(there / "repository", disk / "repository")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    monkeypatch.setattr(pipeline, "load_prepared", pytest.fail)
    for place in (disk / "repository", disk / "other" / "repository"):
        code, out, err = run("export", "net.py:Net", *X, "-o", place)
        assert (code, out) == (1, "")
        assert err.splitlines() == [f"twinport: the repository {place} cannot be written"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_folder_without_permission_is_refused(run, there):
    (there / "repository").chmod(0o500)
    code, _, err = run("export", "net.py:Net", *X, "-o", "repository")
    (there / "repository").chmod(0o700)
    assert code == 1
    assert err.splitlines() == ["twinport: the repository repository cannot be written"]
