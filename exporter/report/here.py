"""The artifact on this machine, where it can be opened: its evidence replayed, its answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from exporter.engine.layers import EngineNetwork
from exporter.look.engine_view import network_of_inspector
from exporter.report.words import without_folders
from runtime.backends.base import Backend, BackendOptions
from runtime.commands.parity import open_version
from runtime.errors import TwinportError
from runtime.golden import Case, Golden
from runtime.manifest import Manifest
from runtime.replay import Replayed, replay_version
from runtime.tensors import Array

Answers = Mapping[str, Array]


@runtime_checkable
class _Inspectable(Protocol):
    """A backend that tells what its library made of the layers."""

    def information(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Here:
    """What the artifact did here.

    Attributes:
        replayed: The proof run again; none where the artifact did not run.
        answers: By case of the evidence; empty where it did not run.
        reason: One line why it did not run; empty where it did.
        fused: An engine's layers as its library fused them; none where it did not tell.
        not_inspected: Why it did not, of an engine that ran.
    """

    replayed: Replayed | None = None
    answers: tuple[Answers, ...] = ()
    reason: str = ""
    fused: EngineNetwork | None = None
    not_inspected: str = ""


def run_here(folder: Path, manifest: Manifest, golden: Golden, options: BackendOptions) -> Here:
    """Open the artifact, replay its proof and keep its answers.

    A machine that lacks the library or the device is no error: the reason says so.
    """
    try:
        with closing(open_version(folder, manifest, options)) as backend:
            replayed = replay_version(folder, manifest, backend)
            answers = tuple(_answers(backend, case, golden, manifest) for case in golden.cases)
            fused, trouble = _inspected(backend, folder / manifest.artifact.file)
    except TwinportError as error:
        return Here(reason=without_folders(str(error), folder))
    return Here(replayed, answers, fused=fused, not_inspected=trouble)


def _inspected(backend: Backend, artifact: Path) -> tuple[EngineNetwork | None, str]:
    if not isinstance(backend, _Inspectable):
        return None, ""
    try:
        return network_of_inspector(artifact, backend.information()), ""
    except TwinportError as error:
        return None, without_folders(str(error), artifact.parent)


def _answers(backend: Backend, case: Case, golden: Golden, manifest: Manifest) -> Answers:
    arrays = case.arrays()
    if not golden.batchable:
        return backend.infer(arrays)
    rows, step = case.rows(), manifest.max_batch_size or case.rows()
    parts = [
        backend.infer({name: array[start : start + step] for name, array in arrays.items()})
        for start in range(0, rows, step)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
