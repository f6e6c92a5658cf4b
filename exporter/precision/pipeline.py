"""The main flow from a proved version in fp32 to versions of lower precisions beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import onnx_ir as ir

from exporter.artifact import serialized_graph
from exporter.layer_proof.blame import located
from exporter.layers import module_map
from exporter.parity import ProofOptions, Proved
from exporter.precision.kinds import FLOATS, lower_name
from exporter.precision.lowered import Lowered, lower_graph
from exporter.precision.proofs import Artifact, check_real, prove_lower
from exporter.precision.samples import Calibration, calibration_inputs
from exporter.precision.typed import check_modules, typed
from exporter.real import RealData
from exporter.source import Source
from exporter.write import Written, check_shared_files, write_version
from runtime.errors import InvalidInput
from runtime.golden import read_golden
from runtime.layout import check_model_name, staged_folder
from runtime.manifest import Lowering, Manifest, ModuleOrigin
from runtime.precision import rule_of

Notify = Callable[[str], None]


@dataclass(frozen=True)
class PrecisionWish:
    """The lower precisions that an export is to end with.

    Attributes:
        precisions: Of ``exporter.precision.kinds.LOWER``.
        keep: Modules that stay fp32.
        data: Folder of MNIST, whose training images the built-in models are calibrated on.
        own_samples: Whether the real inputs are the user's.
    """

    precisions: tuple[str, ...]
    keep: tuple[str, ...] = ()
    data: Path | None = None
    own_samples: bool = False

    def check(self, source: Source, real: RealData | None, moe_form: str) -> None:
        """Refuse what can be refused before anything is exported.

        Raises:
            InvalidInput: A module to keep is not there, int8 has nothing to be calibrated
                on, or the form of the experts has no lower precision.
        """
        check_modules(self.keep, (path for path, _ in source.module.named_modules()), "--keep")
        for precision in self.precisions:
            check_real(precision, real)
        if source.experts and moe_form == "fused":
            raise InvalidInput(
                "--moe-form fused is an operator of ONNX Runtime's own without a lower precision; "
                "use sorted or static"
            )

    def check_names(self, folder: Path, manifest: Manifest, label_output: str | None) -> None:
        """Refuse names that the repository has for other models already.

        Args:
            folder: Of the model in fp32.
            manifest: Its manifest.
            label_output: The output that the labels are for.

        Raises:
            RepositoryError: A model of that name has other inputs or outputs.
        """
        for precision in self.precisions:
            name = check_model_name(lower_name(folder.name, precision))
            check_shared_files(
                folder.with_name(name), replace(manifest, name=name), label_output
            )  # fmt: skip


@dataclass(frozen=True)
class FullVersion:
    """The version in fp32 that others are made of.

    Attributes:
        written: Where it lies.
        source: The module.
        real: The proof's real inputs.
        graph: Makes its graph anew, of at least an opset.
        label_output: The output that the labels are for.
        proof: How proofs are made.
        data_above: Bytes of weights above which they get a file of their own.
    """

    written: Written
    source: Source
    real: RealData | None
    graph: Callable[[int], ir.Model]
    label_output: str | None
    proof: ProofOptions
    data_above: int


def lower_versions(full: FullVersion, wish: PrecisionWish, notify: Notify) -> tuple[Written, ...]:
    """Write a version of each precision beside the one in fp32; none where its proof failed.

    Raises:
        TwinportError: Those before it stay; the text says why there is not this one.
    """
    proof = full.written.manifest.proof
    if proof is None or proof.verdict != "passed":
        return ()
    calibration = calibration_inputs(full.source, wish.data, full.real, wish.own_samples)
    return tuple(
        lower_version(full, precision, calibration, wish.keep, notify)
        for precision in wish.precisions
    )


def lower_version(
    full: FullVersion,
    precision: str,
    calibration: Calibration,
    keep: Sequence[str],
    notify: Notify,
) -> Written:
    """Lower the graph, prove it, write it as ``NAME_fp16`` and so on.

    Returns:
        The version's folder and manifest; in ``failed/N`` where the proof failed.

    Raises:
        ExportError: Nothing of the graph can be lowered within the error budget.
        RepositoryError: The repository has another model of that name.
    """
    given = full.written
    name = lower_name(given.manifest.name, precision)
    folder = given.folder.parent.with_name(name)
    opset = FLOATS[precision].opset if precision in FLOATS else 1
    notify(f"lowering to {precision}, measured on {calibration.name}")
    model = typed(full.graph(opset))
    lowered = lower_graph(model, precision, calibration, keep)
    graph = serialized_graph(lowered.model, given.manifest.artifact.file, full.data_above)
    with staged_folder(folder) as staging:
        file = staging / given.manifest.artifact.file
        data_files = graph.write(file)
        notify(f"proving {name}, {lowered.operators} operators in {precision}")
        evidence, proof = given.manifest.evidence, given.manifest.proof
        assert evidence is not None
        assert proof is not None
        proofs, golden = prove_lower(
            Artifact(file, full.source, given.manifest.outputs, proof.library),
            calibration.rest,
            replace(full.proof, precision=precision),
            (proof, read_golden(given.folder / evidence.file)),
        )
        origins = _origins(given.manifest.module_map, model, lowered.model)
        first = located(full.source, file, origins, Proved(proofs[0], golden), notify,
                        rule_of(precision)).proof  # fmt: skip
        proofs = (first, *proofs[1:])
        manifest = _manifest(given, name, precision, graph.data, lowered, origins, calibration)
        manifest = replace(manifest, artifact=replace(manifest.artifact, data=data_files))
        batchable = proofs[0].batchable
        manifest = replace(
            manifest, proofs=proofs, max_batch_size=manifest.max_batch_size if batchable else 0
        )
        return write_version(staging, folder, manifest, golden, full.label_output)


def _manifest(
    given: Written,
    name: str,
    precision: str,
    data: bytes,
    lowered: Lowered,
    origins: dict[str, ModuleOrigin],
    calibration: Calibration,
) -> Manifest:
    full = given.manifest
    return replace(
        full,
        name=name,
        version=0,  # write_version knows it
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        artifact=replace(
            full.artifact,
            sha256=hashlib.sha256(data).hexdigest(),
            precision=precision,
            opset=lowered.model.opset_imports[""],
            lowering=Lowering(
                onnx=f"{full.name}/{full.version}",
                operators=lowered.operators,
                calibration=calibration.name,
                snr_db=round(lowered.ratio_db, 2) if lowered.ratio_db < float("inf") else None,
                kept=lowered.kept,
                quantised=lowered.quantised,
            ),
        ),
        module_map=origins,
    )


def _origins(
    known: dict[str, ModuleOrigin], before: ir.Model, after: ir.Model
) -> dict[str, ModuleOrigin]:
    """What was known, with the nodes that give these values now, and the values that are new."""
    there = {str(value.name) for node in before.graph for value in node.outputs}
    now = module_map(after)
    kept = {name: now.get(name, origin) for name, origin in known.items()}
    return kept | {name: origin for name, origin in now.items() if name not in there}
