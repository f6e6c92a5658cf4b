"""Run the proof of one version again, on the backend and device at hand; no torch.

The server's warm-up and ``twinport parity`` both go through here, so that one is as strict
as the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from runtime.backends.base import Backend, BackendIdentity
from runtime.errors import InvalidInput, RepositoryError
from runtime.external_data import check_listed
from runtime.golden import Golden, read_golden, replay
from runtime.manifest import FILE_NAME, Manifest
from runtime.precision import rule_of
from runtime.proof import all_passed, first_failure, uncovered
from runtime.proof_records import Judgement, Verdict

EXPORT_AGAIN = "export the model again"
REPLAYS_OF_GRAPHS = 3
"""The first moves buffers, the second captures at the latest, the third launches the graphs."""


@dataclass(frozen=True)
class Replayed:
    """What a replay found.

    Attributes:
        verdict: ``pending`` where the version carries no evidence.
        judgements: One for each output and kind of input; empty where nothing ran.
        identity: What exactly ran the artifact.
        reason: One line, empty where the replay passed.
    """

    verdict: Verdict
    judgements: tuple[Judgement, ...]
    identity: BackendIdentity
    reason: str = ""


def replay_version(folder: Path, manifest: Manifest, backend: Backend) -> Replayed:
    """Judge ``backend``, which has loaded the artifact of ``folder``, by its evidence.

    Args:
        folder: The version's folder, with the evidence in it.
        manifest: The manifest of that folder.
        backend: The artifact, loaded; it stays open.

    Returns:
        Verdict and numbers. An artifact that refuses an input of its own evidence, or
        lacks an output, has failed.

    Raises:
        RepositoryError: The evidence is missing, cannot be read, or is not the file that
            the manifest names.
    """
    if manifest.evidence is None:
        return Replayed("pending", (), backend.identity, "the version carries no evidence")
    path = folder / manifest.evidence.file
    check_sha256(path, manifest.evidence.sha256, made_again(manifest))
    golden = read_golden(path)
    try:
        judgements, failure = _judged(golden, manifest, backend)
    except (InvalidInput, RepositoryError) as error:
        return Replayed("failed", (), backend.identity, f"the replay stopped: {error}")
    reason = _failed_before(manifest) or failure or _uncovered(manifest, judgements)
    passed = all_passed(judgements) and not reason
    return Replayed("passed" if passed else "failed", judgements, backend.identity, reason)


def _judged(
    golden: Golden, manifest: Manifest, backend: Backend
) -> tuple[tuple[Judgement, ...], str]:
    """Judge every way in which the backend answers, and stop at the first that fails.

    Whole replays are repeated, not calls: between two calls of one shape others run, so that
    a graph which answers from what the last call left behind is found out.

    Returns:
        The last judgements, and what failed in them; empty where nothing did.
    """
    judgements: tuple[Judgement, ...] = ()
    for turn in range(REPLAYS_OF_GRAPHS if backend.captures else 1):
        judgements = replay(
            golden, backend.infer, max_batch_size=manifest.max_batch_size,
            precision=manifest.artifact.precision,
        )  # fmt: skip
        failure = first_failure(judgements)
        if failure:
            return judgements, f"where calls come again, {failure}" if turn else failure
    return judgements, ""


def _failed_before(manifest: Manifest) -> str:
    """What the exporter found and a replay cannot: a vacuous output, a degraded truth, labels."""
    proof = manifest.proof
    if proof is None or proof.verdict != "failed":
        return ""
    return f"its proof failed when it was exported: {proof.reason}"


def _uncovered(manifest: Manifest, judgements: tuple[Judgement, ...]) -> str:
    """The first output that the evidence is silent about; strings cannot be kept in it."""
    names = [spec.name for spec in manifest.outputs if spec.dtype != "string"]
    return uncovered(names, judgements, rule_of(manifest.artifact.precision))


def made_again(manifest: Manifest) -> str:
    """What to do where the files of a version are not as their manifest says."""
    return EXPORT_AGAIN if manifest.artifact.engine is None else "build the engine again"


def check_artifact(folder: Path, manifest: Manifest) -> Path:
    """Path of the artifact, after comparing it and its weights' files with its manifest.

    Raises:
        RepositoryError: A file is missing or not the one that was proved, or weights lie in
            a file of which the manifest says nothing.
    """
    path = folder / manifest.artifact.file
    check_sha256(path, manifest.artifact.sha256, made_again(manifest))
    for item in manifest.artifact.data:
        if Path(item.file).name != item.file:
            raise RepositoryError(f"{folder / FILE_NAME} names the weights' file '{item.file}'; "
                                  "wanted one in the version's folder")  # fmt: skip
        check_sha256(folder / item.file, item.sha256, made_again(manifest))
    if manifest.artifact.format == "onnx":
        check_listed(path, manifest.artifact.data)
    return path


def check_sha256(path: Path, expected: str, cure: str = EXPORT_AGAIN) -> None:
    """Compare a file with the digest that its manifest gives.

    Args:
        path: The file.
        expected: Its digest in hexadecimal.
        cure: What to do where it has another; see ``made_again``.

    Raises:
        RepositoryError: The file is missing, cannot be read, or has another digest.
    """
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RepositoryError(f"{path} cannot be read: {error.strerror or error}") from error
    if found != expected:
        raise RepositoryError(
            f"{path} has sha256 {found[:12]}…, its manifest says {expected[:12]}…; "
            f"the file was changed after the proof, {cure}"
        )
