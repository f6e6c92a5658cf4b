"""Real engines on a real GPU; every test here says what is missing where it is skipped."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.backends.cuda import device_problem, gpu
from runtime.backends.plan import FLAVOURS
from runtime.backends.trt_library import check_target, load_library
from runtime.errors import BackendUnavailable

TWINPORT = Path(sys.executable).with_name("twinport")


@pytest.fixture(scope="session", params=list(FLAVOURS))
def flavour(request: pytest.FixtureRequest) -> str:
    """A library that is here and has kernels for the GPU that is here."""
    name = str(request.param)
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{FLAVOURS[name].title} is not installed")
    problem = device_problem()
    if problem is not None:
        pytest.skip(problem)
    try:
        check_target(load_library(FLAVOURS[name]), FLAVOURS[name], gpu())
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return name


def twinport(*argv: object) -> None:
    """Run the program; it has to succeed."""
    done = subprocess.run(
        [str(TWINPORT), *map(str, argv)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def engines(flavour: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5, the mixture of experts in its static form, and an engine of each."""
    repository = tmp_path_factory.mktemp(f"engines-{flavour}")
    twinport("export", "lenet5", "-o", repository, "--proof-budget", 5)
    twinport("export", "moe", "-o", repository, "--proof-budget", 5, "--moe-form", "static")
    profiles = ("--profile", "batch=1,1,4", "--profile", "batch=1,8,64")
    twinport("engine", repository / "lenet5", "--flavour", flavour, *profiles)
    twinport("engine", repository / "moe", "--flavour", flavour)
    return repository
