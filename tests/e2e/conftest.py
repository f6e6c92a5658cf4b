"""Models that are exported once for all processes that serve them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TWINPORT = Path(sys.executable).with_name("twinport")


@pytest.fixture(scope="session")
def run_twinport() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The program as a user starts it."""

    def run(*argv: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(TWINPORT), *map(str, argv)],
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def lenet5_repository(
    tmp_path_factory: pytest.TempPathFactory,
    run_twinport: Callable[..., subprocess.CompletedProcess[str]],
) -> Path:
    """LeNet-5, proved; whoever adds to it takes a copy."""
    repository = tmp_path_factory.mktemp("lenet5")
    done = run_twinport("export", "lenet5", "-o", repository, "--proof-budget", 5)
    assert done.returncode == 0, done.stderr
    return repository
