"""Sources made in the test, a module in the artifact's place, and exports into a folder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from exporter.outputs import named_outputs
from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.source import Source, SourceRequest
from exporter.sources.inputs import fixed_axes, free_ranges
from exporter.write import Written
from runtime.backends.base import BackendIdentity
from runtime.cli import main
from runtime.tensors import TensorSpec, spec_from_text

NETS = Path(__file__).parent / "nets.py"


class ModuleBackend:
    """A module in float32 where an artifact would be; what is wrong with it is the test's."""

    identity = BackendIdentity("torch", "CPU", "cpu", "torch in the artifact's place")

    def __init__(self, module: nn.Module, outputs: tuple[str, ...]) -> None:
        self.module = copy.deepcopy(module)
        self.names = outputs
        self.rows: list[int] = []

    def infer(self, arrays: Mapping[str, Any], outputs: Any = None) -> dict[str, Any]:
        tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
        with torch.no_grad():
            values = named_outputs(self.module(**tensors)).values()
        return {n: v.numpy().copy() for n, v in zip(self.names, values, strict=True)}


def make_source(
    module: nn.Module,
    *inputs: str,
    ranges: Mapping[str, tuple[int, int]] | None = None,
    values: Mapping[str, tuple[float, float]] | None = None,
) -> Source:
    ranges = dict(ranges or {})
    specs = fixed_axes(tuple(spec_from_text(text) for text in inputs), ranges)
    return Source(
        "net", "net.py:make", module.eval(), specs, (), free_ranges(ranges), dict(values or {}),
        None,
    )  # fmt: skip


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """The program in this process: ``run('inspect', path)`` gives code, output and errors."""
    loggers = [logging.getLogger(name) for name in ("exporter", "models", "runtime")]
    levels = [logger.level for logger in loggers]

    def call(*argv: object) -> tuple[int, str, str]:
        code = main([str(item) for item in argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="session")
def source_of() -> Callable[..., Source]:
    """A source from a module and texts of inputs."""
    return make_source


@pytest.fixture(scope="session")
def backend_of() -> type[ModuleBackend]:
    """A module in the artifact's place."""
    return ModuleBackend


@pytest.fixture(scope="session")
def spec() -> Callable[[str], TensorSpec]:
    """A tensor's specification from its text."""
    return spec_from_text


@pytest.fixture(scope="session")
def export_net() -> Callable[..., Written]:
    """Export one of ``nets.py`` into a repository: ``export_net(folder, 'Linear', 'x:...')``."""

    def export(
        repository: Path,
        factory: str,
        *inputs: str,
        ranges: Mapping[str, tuple[int, int]] | None = None,
        values: Mapping[str, tuple[float, float]] | None = None,
        proof: ProofOptions | None = None,
        **request: Any,
    ) -> Written:
        source = SourceRequest(
            f"{NETS}:{factory}", None, tuple(spec_from_text(text) for text in inputs),
            dict(ranges or {}), dict(values or {}),
        )  # fmt: skip
        return export_model(
            ExportRequest(source, repository, proof=proof or ProofOptions(), **request)
        )

    return export


@pytest.fixture(scope="session")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The built-in model, exported once; leave it as it is."""
    folder = tmp_path_factory.mktemp("lenet") / "repository"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TWINPORT_DATA", raising=False)
        patch.chdir(tmp_path_factory.getbasetemp())
        return export_model(ExportRequest(SourceRequest("lenet5"), folder))


@pytest.fixture(scope="session")
def linear(tmp_path_factory: pytest.TempPathFactory, export_net: Callable[..., Written]) -> Written:
    """A linear layer, exported once; leave it as it is."""
    return export_net(tmp_path_factory.mktemp("linear") / "repository", "Linear",
                      "x:float32[batch,4]")  # fmt: skip
