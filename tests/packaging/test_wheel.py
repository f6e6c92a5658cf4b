from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

PACKAGES = {"exporter", "models", "protos", "runtime"}


@pytest.fixture(scope="module")
def wheel(project: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the files in the wheel."""
    target = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, project],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = target.glob("twinport-*.whl")
    with ZipFile(path) as file:
        return set(file.namelist())


def test_the_wheel_holds_the_four_packages_and_no_other(wheel):
    tops = {name.split("/")[0] for name in wheel}
    assert {name for name in tops if not name.endswith(".dist-info")} == PACKAGES
    assert len(tops) == len(PACKAGES) + 1


def test_every_file_of_the_packages_is_in_the_wheel(wheel, project):
    there = {
        path.relative_to(project).as_posix()
        for package in PACKAGES
        for path in (project / package).rglob("*")
        if path.is_file()
    }
    assert there - wheel == set()


def test_data_without_which_nothing_works_is_in_the_wheel(wheel):
    assert {
        "protos/inference.binpb",
        "protos/inference.proto",
        "protos/model_config.proto",
        "protos/messages.pyi",
        "models/checkpoints/lenet5.safetensors",
        "models/checkpoints/lenet5.json",
    } <= wheel


def test_every_package_is_typed(wheel):
    assert {f"{package}/py.typed" for package in PACKAGES} <= wheel


def test_the_two_onnxruntimes_are_never_asked_for_together(project):
    data = tomllib.loads((project / "pyproject.toml").read_text())
    extras = data["project"]["optional-dependencies"]
    asking = {
        extra: [item for item in items if item.startswith("onnxruntime")]
        for extra, items in extras.items()
    }
    assert [len(items) for items in asking.values() if items] == [1, 1]
    assert {extra for extra, items in asking.items() if items} == {"cpu", "gpu"}
