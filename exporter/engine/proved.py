"""The proved ONNX version that an engine is built from, checked file by file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.engine.profiles import Profile, covered_ranges
from exporter.ranges import Range, range_of
from runtime.commands.parity import find_version
from runtime.errors import InvalidInput, NotFound, RepositoryError
from runtime.golden import read_golden
from runtime.layout import CONFIG_FILE, FAILED_FOLDER
from runtime.manifest import FILE_NAME, Evidence, Manifest, read_manifest
from runtime.model_config import read_config
from runtime.proof_records import Proof
from runtime.replay import check_artifact, check_sha256

TENSOR_TYPES = ("float32", "float16", "int64", "int32", "int8", "uint8", "bool")
"""What goes into an engine and comes out of it; a float64 would be narrowed in silence."""


@dataclass(frozen=True)
class ProvedVersion:
    """A version whose files are those that were proved.

    Attributes:
        artifact: The ONNX file.
        proof: The one that was made with it.
        evidence: What its manifest says of the evidence.
        ranges: Declared sizes of every free axis of the inputs.
        label_output: The output that the labels are for.
    """

    folder: Path
    manifest: Manifest
    artifact: Path
    proof: Proof
    evidence: Evidence
    ranges: Mapping[str, Range]
    label_output: str | None

    @property
    def repository(self) -> Path:
        """The model repository."""
        return self.folder.parent.parent

    @property
    def name(self) -> str:
        """``lenet5/1``."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def batch_axis(self) -> str | None:
        """The axis along which requests are joined; none where they cannot be."""
        axis = self.manifest.inputs[0].shape[0] if self.manifest.max_batch_size else None
        return axis if isinstance(axis, str) else None


def proved_version(model: Path, version: int | None = None) -> ProvedVersion:
    """Find and check what an engine is to be built from.

    Args:
        model: ``REPOSITORY/NAME``, or the folder of one version.
        version: The highest where none is given.

    Raises:
        NotFound: No such model or version.
        RepositoryError: It is no proved ONNX version, or its files were changed.
        InvalidInput: It has a tensor of a type that no engine takes.
    """
    folder = version_folder(model, version)
    if not (folder / FILE_NAME).is_file():
        raise RepositoryError(
            f"{folder} has no {FILE_NAME}, so nothing is proved of it; "
            "an engine is built from a version that twinport export wrote"
        )
    manifest = read_manifest(folder / FILE_NAME)
    _check_kind(folder, manifest)
    proof, evidence = _proof(folder, manifest)
    artifact = check_artifact(folder, manifest)
    check_sha256(folder / evidence.file, evidence.sha256)
    _check_types(manifest)
    free = (axis for spec in manifest.inputs for axis in spec.shape if isinstance(axis, str))
    return ProvedVersion(
        folder=folder,
        manifest=manifest,
        artifact=artifact,
        proof=proof,
        evidence=evidence,
        ranges={axis: range_of(axis, manifest.ranges) for axis in dict.fromkeys(free)},
        label_output=_label_output(folder.parent / CONFIG_FILE),
    )


def check_evidence(source: ProvedVersion, profiles: Sequence[Profile]) -> None:
    """Refuse profiles under which the evidence could not be replayed on the engine.

    Raises:
        InvalidInput: Its inputs have sizes that no profile takes.
    """
    covered, batch = covered_ranges(profiles), source.batch_axis
    if batch is not None and covered[batch][0] > (low := source.ranges[batch][0]):
        raise InvalidInput(
            f"the profiles take {batch} from {covered[batch][0]} up, and the proof asks with "
            f"{low} as well; begin with {batch}={low}"
        )
    for case in read_golden(source.folder / source.evidence.file).cases:
        arrays = case.arrays()
        for spec in source.manifest.inputs:
            for axis, size in zip(spec.shape, arrays[spec.name].shape, strict=True):
                if isinstance(axis, int) or axis == batch:
                    continue  # the replay cuts batches to what is taken
                low, high = covered[axis]
                if not low <= size <= high:
                    raise InvalidInput(
                        f"the evidence of {source.name} has inputs with {axis} {size}, the "
                        f"profiles take {low} to {high}; let them take it, or export again with "
                        f"--range {axis}={low}:{high}"
                    )


def version_folder(model: Path, version: int | None = None) -> Path:
    """The folder that ``REPOSITORY/NAME``, or a version's folder itself, means.

    Raises:
        NotFound: No such model or version.
    """
    if model.is_file():
        raise NotFound(f"{model} is a file; an engine is built from a version: REPOSITORY/NAME")
    if re.fullmatch(r"[1-9][0-9]*", model.name) and (model / FILE_NAME).is_file():
        return model
    return find_version(model, version)


def _check_kind(folder: Path, manifest: Manifest) -> None:
    if manifest.artifact.engine is not None:
        raise RepositoryError(
            f"{folder} is an engine already; it was built from {manifest.artifact.engine.onnx}, "
            "so give that one"
        )
    if manifest.artifact.format != "onnx":
        raise RepositoryError(
            f"{folder} holds {manifest.artifact.format}; an engine is built from onnx"
        )


def _proof(folder: Path, manifest: Manifest) -> tuple[Proof, Evidence]:
    proof, evidence = manifest.proof, manifest.evidence
    if proof is None or proof.verdict == "failed" or folder.parent.name == FAILED_FOLDER:
        why = f"its proof failed: {proof.reason}" if proof and proof.reason else "it is not proved"
        raise RepositoryError(f"no engine is built from {folder}: {why}; export it again")
    if evidence is None:
        raise RepositoryError(f"{folder} carries no evidence to prove an engine by; export again")
    return proof, evidence


def _check_types(manifest: Manifest) -> None:
    for kind, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            if spec.dtype not in TENSOR_TYPES:
                raise InvalidInput(
                    f"{kind} '{spec.name}' is {spec.dtype}, which no engine takes; "
                    f"use one of {', '.join(TENSOR_TYPES)} in the module"
                )


def _label_output(config: Path) -> str | None:
    """The output that ``config.pbtxt`` gives a file of labels."""
    if not config.is_file():
        return None
    return next((item.name for item in read_config(config).output if item.label_filename), None)
