"""Every backend beside the truth on a labelled data set: a cell each, or why it did not run.

A cell is judged as a proof is: errors in units of PyTorch's own float32 error, the load of
experts integer for integer where the routing is stable, labels as the truth has them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from exporter.labels import compare_labels
from exporter.real import RealData
from exporter.source import Source
from exporter.truth import Truth, torch_float32
from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.backends.plan import FLAVOURS
from runtime.client import Client
from runtime.error_pool import ErrorPool, Scale
from runtime.errors import BackendUnavailable, TwinportError
from runtime.layout import version_numbers
from runtime.loading import backend_of, backend_options
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import LOAD_OUTPUT, Manifest, read_manifest
from runtime.precision import RULES, rule_of
from runtime.proof import ROUTING_MARGIN, all_passed, first_failure, is_load
from runtime.proof import judge as judge_pool
from runtime.proof_records import Judgement, LabelCheck
from runtime.replay import check_artifact
from runtime.tensors import Array

Answers = Mapping[str, Array]
Infer = Callable[[Answers], Answers]
SCALE_ROWS = 2000
"""PyTorch's own error is measured on so many rows; it is a mean and needs no more."""
BATCH = 64
_TRUTH_BATCH = 100
IN_PROCESS, SERVED = "in process", "gRPC"


@dataclass(frozen=True)
class Candidate:
    """One backend on one device.

    Attributes:
        title: For people.
        backend: As ``config.pbtxt`` names it; empty for the module itself.
        suffix: Of the model's name in the repository.
        device: ``cpu`` or ``cuda``.
    """

    title: str
    backend: str
    suffix: str
    device: str


CANDIDATES = (
    Candidate("PyTorch CPU", "", "", "cpu"),
    Candidate("PyTorch CUDA", "", "", "cuda"),
    Candidate("ONNX Runtime CPU", "onnxruntime", "", "cpu"),
    Candidate("ONNX Runtime CUDA", "onnxruntime", "", "cuda"),
    *(Candidate(of.title, of.name, of.suffix, "cuda") for of in FLAVOURS.values()),
)


@dataclass(frozen=True)
class Yardstick:
    """What a model's answers are held to.

    Attributes:
        model: Its name.
        module: In float32 on the CPU.
        data: Rows with labels.
        truth: ``[rows, ...]`` in float64, by the artifact's output names.
        margin: ``[rows]`` how clearly experts were chosen; none without experts.
        scales: PyTorch's own float32 error by output.
    """

    model: str
    module: torch.nn.Module
    data: RealData
    truth: Answers
    margin: Array | None
    scales: Mapping[str, Scale]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names, the logits first."""
        return tuple(self.truth)

    def stable(self, margin: float = ROUTING_MARGIN) -> Array | None:
        """``[rows]`` whether the routing is; none without experts."""
        return None if self.margin is None else self.margin > margin


@dataclass(frozen=True)
class Cell:
    """One backend, model, precision and route."""

    backend: str
    model: str
    precision: str
    route: str
    verdict: Literal["passed", "failed", "not run"]
    reason: str = ""
    library: str = ""
    device: str = ""
    judgements: tuple[Judgement, ...] = ()
    labels: LabelCheck | None = None


def measure_yardstick(source: Source, data: RealData) -> Yardstick:
    """Run a module over all rows in float64, and over the first ones as PyTorch does it.

    Args:
        source: The module, with a free batch axis.
        data: Rows with labels and the output that names the class.
    """
    names = (*source.output_names, *((LOAD_OUTPUT,) if source.experts else ()))
    truth_of, margins = Truth(source.module), []

    def answer(rows: Answers) -> Answers:
        answers = truth_of(rows)
        margins.append(truth_of.margin)
        return dict(zip(names, answers.values(), strict=True))

    truth = _in_batches(answer, data.inputs, _TRUTH_BATCH)
    known = [margin for margin in margins if margin is not None]
    margin = np.concatenate(known) if known else None
    stable = None if margin is None else margin > ROUTING_MARGIN
    first = {name: array[:SCALE_ROWS] for name, array in data.inputs.items()}
    own = _in_batches(_named(torch_float32(source.module), names), first, BATCH)
    scales = {}
    for name in names:
        pool = ErrorPool(rows=True, load=is_load(name))
        kept = None if stable is None else stable[:SCALE_ROWS]
        pool.add(own[name], truth[name][:SCALE_ROWS], own[name], stable=kept)
        scales[name] = pool.scale()
    return Yardstick(source.name, source.module, data, truth, margin, scales)


def matrix(
    repository: Path,
    yardsticks: Sequence[Yardstick],
    serve: Callable[[str], str],
    absent: Mapping[str, str] | None = None,
) -> Iterator[Cell]:
    """Every candidate and model, in process and through the service.

    Args:
        repository: With the models and their engines, by their own names.
        yardsticks: One for each model.
        serve: Gives the address of a server of the repository on a device; asked only for
            what ran in process.
        absent: Why a name is not in the repository.
    """
    for candidate in CANDIDATES:
        for yard in yardsticks:
            if not candidate.backend:
                yield _torch_cell(candidate, yard)
                continue
            name = f"{yard.model}{candidate.suffix}"
            cell = _artifact_cell(candidate, yard, repository / name, absent or {})
            yield cell
            cell = replace(cell, route=SERVED)
            if cell.verdict != "not run":
                with Client(serve(candidate.device)) as client:
                    cell = judged(cell, yard, _served(client, name, yard.outputs))
            yield cell


def judged(place: Cell, yard: Yardstick, infer: Infer, batch: int = BATCH) -> Cell:
    """Run all rows and judge the answers.

    Args:
        place: Says what runs; verdict and numbers are replaced.
        yard: Rows and truth.
        infer: One call: inputs to the outputs of the yardstick.
        batch: Rows in a call.
    """
    try:
        answers = _in_batches(infer, yard.data.inputs, batch)
    except TwinportError as error:
        return replace(place, verdict="failed", reason=f"it stopped: {error}")
    rule = rule_of(place.precision)
    stable = yard.stable(rule.routing_margin)
    judgements = []
    for name, truth in yard.truth.items():
        pool = ErrorPool(rows=True, load=is_load(name))
        pool.add(answers[name], truth, stable=stable)
        judgements.append(
            judge_pool(pool, name, "real", extreme=False, scale=yard.scales[name],
                       may_be_constant=False, rule=rule)
        )  # fmt: skip
    logits, right = yard.outputs[0], yard.data.labels
    assert right is not None
    labels = compare_labels(
        yard.data.name, right, yard.truth[logits], answers[logits], yard.scales[logits], rule
    )
    reason = first_failure(judgements)
    if not reason and labels.verdict == "failed":
        reason = f"{labels.wrong} of {labels.samples} labels differ from the truth's"
    passed = all_passed(judgements) and not reason
    return replace(
        place, verdict="passed" if passed else "failed", reason=reason,
        judgements=tuple(judgements), labels=labels,
    )  # fmt: skip


def _torch_cell(candidate: Candidate, yard: Yardstick) -> Cell:
    place = Cell(
        candidate.title, yard.model, "fp32", IN_PROCESS, "not run",
        library=f"torch {torch.__version__}", device=candidate.device,
    )  # fmt: skip
    module = yard.module
    if candidate.device == "cuda":
        if not torch.cuda.is_available():
            return replace(place, reason="torch finds no GPU that it can use")
        place = replace(place, device=torch.cuda.get_device_name(0))
        module = copy.deepcopy(yard.module).to("cuda")
    return judged(place, yard, _named(torch_float32(module, candidate.device), yard.outputs))


def _artifact_cell(
    candidate: Candidate, yard: Yardstick, folder: Path, absent: Mapping[str, str]
) -> Cell:
    place = Cell(
        candidate.title, yard.model, "fp32", IN_PROCESS, "not run", device=candidate.device
    )
    versions = version_numbers(folder)
    if not versions:
        reason = absent.get(folder.name, f"the repository has no {folder.name}")
        return replace(place, reason=reason)
    version = folder / str(max(versions))
    manifest = read_manifest(version / MANIFEST_FILE)
    place = replace(place, precision=manifest.artifact.precision)
    if place.precision not in RULES:
        return replace(place, reason=f"there are no limits for {place.precision}")
    options = backend_options(BackendOptions(device=candidate.device), manifest)
    try:
        artifact = check_artifact(version, manifest)
        backend = open_backend(backend_of(manifest), artifact, options)
    except BackendUnavailable as error:
        return replace(place, reason=str(error))
    with closing(backend):
        place = replace(place, library=backend.identity.library, device=backend.identity.device)
        return judged(
            place, yard, lambda rows: backend.infer(rows, yard.outputs), _batch_of(manifest)
        )


def _batch_of(manifest: Manifest) -> int:
    return min(BATCH, manifest.max_batch_size or BATCH)


def _served(client: Client, name: str, outputs: Sequence[str]) -> Infer:
    return lambda rows: client.infer(name, rows, outputs=outputs)


def _named(infer: Infer, names: Sequence[str]) -> Infer:
    """A module's answers under the artifact's names."""
    return lambda rows: dict(zip(names, infer(rows).values(), strict=True))


def _in_batches(infer: Infer, inputs: Answers, batch: int) -> dict[str, Array]:
    rows = min(len(array) for array in inputs.values())
    parts = [
        infer({k: np.ascontiguousarray(v[start : start + batch]) for k, v in inputs.items()})
        for start in range(0, rows, batch)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
