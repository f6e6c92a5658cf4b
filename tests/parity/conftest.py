"""Both models exported, their engines where a library is here, and the whole matrix once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from exporter.matrix import matrix

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def program() -> Iterator[ModuleType]:
    """What `make parity` runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        import parity_matrix

        yield parity_matrix


@pytest.fixture(scope="session")
def prepared(program, tmp_path_factory):
    """The repository, and why an engine is not in it."""
    repository = tmp_path_factory.mktemp("parity") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        # Proved on the bundled digits, which takes less; the matrix has all images.
        patch.delenv("TWINPORT_DATA", raising=False)
        patch.chdir(tmp_path_factory.getbasetemp())
        return repository, program.prepare(repository)


@pytest.fixture(scope="session")
def yards(program):
    """The float64 truth of both models over every image."""
    return {yard.model: yard for yard in program.yardsticks(None)}


@pytest.fixture(scope="session")
def cells(prepared, yards, start_server):
    """Every cell by backend, model and route."""
    repository, absent = prepared

    @cache
    def serve(device):
        return start_server(repository, "--device", device).address

    ran = matrix(repository, list(yards.values()), serve, absent)
    return {(cell.backend, cell.model, cell.route): cell for cell in ran}
