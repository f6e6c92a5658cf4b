"""The model's precisions in its repository beside each other: size, speed, noise, labels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exporter.report.words import without_folders
from runtime.backends.base import Backend, BackendOptions
from runtime.commands.parity import open_version
from runtime.errors import RepositoryError, TwinportError
from runtime.golden import Golden
from runtime.layout import FAILED_FOLDER, version_numbers
from runtime.manifest import FILE_NAME, Manifest, read_manifest
from runtime.precision import FULL, KINDS, RULES
from runtime.proof import signal_to_noise_db
from runtime.proof_records import LabelCheck, Proof
from runtime.tensors import Array

WARM_UP = 5
SHORTEST_S, MOST_CALLS = 0.2, 200
"""Calls are timed until both are over, or as many are made."""
FEWEST_CALLS = 10


@dataclass(frozen=True)
class PrecisionRow:
    """One precision of the model.

    Attributes:
        version: ``lenet5_int8/1``.
        own: Whether the page is about this one.
        artifact_bytes: Of its file and of those with its weights; none where one is missing.
        share: Of the size in fp32; none where that is not there.
        latency_ms: Median of one call with one sample, here and now; none where it did not run.
        not_run: Why not, in one line.
        snr_db: Of the worst output on ordinary inputs, from the proof; none without any noise.
        judged_with: What the proof ran on.
        labels: Of the proof.
    """

    version: str
    precision: str
    verdict: str
    own: bool
    artifact_bytes: int | None
    share: float | None
    latency_ms: float | None
    not_run: str
    snr_db: float | None
    judged_with: str
    labels: LabelCheck | None


def precision_rows(
    folder: Path, manifest: Manifest, golden: Golden | None, options: BackendOptions
) -> tuple[PrecisionRow, ...]:
    """A row for each precision of the model that lies in the repository.

    Args:
        folder: The version's folder.
        manifest: Its manifest.
        golden: Its evidence, of which one sample is timed; none where it cannot be read.
        options: How artifacts are run.

    Returns:
        From fp32 down; nothing where there is one precision alone, or the version is an
        engine.
    """
    if manifest.artifact.engine is not None or folder.parent.name == FAILED_FOLDER:
        return ()
    found = list(_versions(folder, manifest))
    if len(found) < 2:
        return ()
    sizes = {place: _bytes(place, item) for place, item in found}
    full = next((sizes[p] for p, item in found if item.artifact.precision == FULL), None)
    sample = _one_sample(golden)
    return tuple(
        _row(place, item, place == folder, sizes[place], full, sample, options)
        for place, item in found
    )


def _versions(folder: Path, manifest: Manifest) -> Iterator[tuple[Path, Manifest]]:
    """The page's own version, and the highest of each other precision of the same weights."""
    lowering = manifest.artifact.lowering
    root = folder.parent.name if lowering is None else lowering.onnx.partition("/")[0]
    repository = folder.parent.parent
    for precision in RULES:
        if manifest.artifact.precision == precision:
            yield folder, manifest
            continue
        other = repository / (root if precision == FULL else f"{root}_{precision}")
        numbers = version_numbers(other)
        if not numbers:
            continue
        try:
            theirs = read_manifest(other / str(numbers[-1]) / FILE_NAME)
        except RepositoryError:
            continue
        same = theirs.source.state_sha256 == manifest.source.state_sha256
        if same and theirs.artifact.precision == precision and theirs.artifact.engine is None:
            yield other / str(numbers[-1]), theirs


def _row(
    place: Path,
    manifest: Manifest,
    own: bool,
    size: int | None,
    full: int | None,
    sample: dict[str, Array],
    options: BackendOptions,
) -> PrecisionRow:
    latency, reason = _latency(place, manifest, sample, options)
    proof = next((item for item in manifest.proofs if item.judgements), None)
    return PrecisionRow(
        version=f"{place.parent.name}/{place.name}",
        precision=manifest.artifact.precision,
        verdict=manifest.proof.verdict if manifest.proof else "pending",
        own=own,
        artifact_bytes=size,
        share=size / full if size is not None and full else None,
        latency_ms=latency,
        not_run=reason,
        snr_db=None if proof is None else worst_ratio_db(proof),
        judged_with="" if proof is None else proof.library,
        labels=None if proof is None else proof.labels,
    )


def worst_ratio_db(proof: Proof) -> float | None:
    """The least signal-to-noise ratio of any output on the real inputs, else on drawn ones.

    In fp32, which is judged otherwise, it is read off the relative error.
    """
    for kind in ("real", *sorted(KINDS - {"real"})):
        items = [item for item in proof.judgements if item.kind == kind and item.rms_scale]
        errors = [item.relative_rms for item in items if item.relative_rms]
        if items:
            return signal_to_noise_db(1.0, max(errors)) if errors else None
    return None


def _latency(
    place: Path, manifest: Manifest, sample: dict[str, Array], options: BackendOptions
) -> tuple[float | None, str]:
    if not sample:
        return None, "there is no sample to time"
    try:
        with closing(open_version(place, manifest, options)) as backend:
            return median_call_ms(backend, sample), ""
    except TwinportError as error:
        return None, without_folders(str(error), place)


def median_call_ms(backend: Backend, sample: dict[str, Array]) -> float:
    """Median time of one call, after some that warm up."""
    for _ in range(WARM_UP):
        backend.infer(sample)
    times: list[float] = []
    until = time.perf_counter() + SHORTEST_S
    while len(times) < MOST_CALLS and (len(times) < FEWEST_CALLS or time.perf_counter() < until):
        began = time.perf_counter()
        backend.infer(sample)
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))


def _one_sample(golden: Golden | None) -> dict[str, Array]:
    """One row of the first case of a batchable model, one call of any other."""
    if golden is None or not golden.cases:
        return {}
    arrays = golden.cases[0].arrays()
    return {name: array[:1] for name, array in arrays.items()} if golden.batchable else arrays


def _bytes(place: Path, manifest: Manifest) -> int | None:
    names = [manifest.artifact.file, *(item.file for item in manifest.artifact.data)]
    files = [place / Path(name).name for name in names]
    if not all(file.is_file() for file in files):
        return None
    return sum(file.stat().st_size for file in files)
