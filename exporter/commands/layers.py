"""``twinport parity --layers``: the layer proof of a version, as a table."""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from exporter.layer_proof.prove import LayerOptions, layer_proof
from exporter.layer_proof.proved_source import source_of_version
from exporter.layer_proof.records import LayerProof, LayerRow, divergence_text
from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.errors import RepositoryError
from runtime.golden import read_golden
from runtime.loading import backend_options
from runtime.manifest import Manifest
from runtime.precision import KINDS, rule_of
from runtime.proof_records import Judgement
from runtime.replay import check_artifact, check_sha256
from runtime.tables import console, signal_to_noise


def show_layers(
    folder: Path,
    manifest: Manifest,
    model: str | None,
    weights: Path | None,
    options: BackendOptions,
    *,
    quiet: bool,
) -> tuple[dict[str, Any], str]:
    """Make the layer proof of a version and print it.

    Args:
        folder: The version's folder.
        manifest: The manifest in it.
        model: The module, where it is not the manifest's.
        weights: Its weights, where the factory does not load them.
        options: The device on which the artifact runs.
        quiet: Whether nothing is printed.

    Returns:
        The proof as JSON has it, and what is wrong in one line; empty where nothing is.
    """
    proof = proof_of_version(folder, manifest, model, weights, options)
    if not quiet:
        _show(proof)
    text = divergence_text(proof)
    judged = manifest.artifact.precision == "fp32"
    record = {**dataclasses.asdict(proof), "passed": proof.passed, "diverges": text}
    return record, text if judged else ""


def proof_of_version(
    folder: Path,
    manifest: Manifest,
    model: str | None,
    weights: Path | None,
    options: BackendOptions,
) -> LayerProof:
    """The layer proof of a version.

    Raises:
        RepositoryError: It is an engine or bf16, has no evidence, or its files were changed.
    """
    if manifest.artifact.format != "onnx":
        built = manifest.artifact.engine
        raise RepositoryError(
            f"{manifest.name} is no ONNX file, whose inner values can be read"
            + (f"; give the version that it was built from, {built.onnx}" if built else "")
        )
    if manifest.artifact.precision == "bf16":
        raise RepositoryError(
            f"{manifest.name} is bf16, for which ONNX Runtime's CPU has no kernels, so its inner "
            "values cannot be read here; its second proof is that of onnx.reference"
        )
    if manifest.evidence is None:
        raise RepositoryError(f"{folder} carries no evidence whose inputs could be run")
    artifact, evidence = check_artifact(folder, manifest), folder / manifest.evidence.file
    check_sha256(evidence, manifest.evidence.sha256)
    source = source_of_version(manifest, model, weights)
    plain = dataclasses.replace(options, optimised=False)
    rule = rule_of(manifest.artifact.precision)
    layers = LayerOptions(
        plain=partial(open_backend, "onnxruntime", options=plain),
        full=partial(open_backend, "onnxruntime", options=backend_options(options, manifest)),
        kinds=tuple(sorted(KINDS & rule.judged)) if rule.snr_db is not None else (),
        rule=rule,
    )
    return layer_proof(source, artifact, manifest.module_map, read_golden(evidence), layers)


def _show(proof: LayerProof) -> None:
    out = console()
    out.print(_table(proof))
    shown = " and ".join(f"with {level}" for level in proof.levels)
    out.print(
        f"{len(proof.rows)} values of {len({row.module for row in proof.rows})} modules, read "
        f"{shown}; {proof.samples} samples, {proof.seconds:.1f} s",
        markup=False,
    )
    for line in _left_out(proof):
        out.print(line, markup=False, soft_wrap=True)
    if proof.lowered:
        out.print(f"warning: the truth is degraded by {', '.join(proof.lowered)}", markup=False)
    if proof.cut_by_budget:
        out.print("warning: the budget of time cut the samples", markup=False)
    if proof.passed:
        out.print("every module is within its local budget", markup=False)


def _table(proof: LayerProof) -> Table:
    table = Table(
        box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, caption_justify="left",
        caption="RMS and largest error in units of the module's own float32 error; accumulated: "
        "against the truth of the whole run",
    )  # fmt: skip
    for heading in ("module", "value"):
        table.add_column(heading, overflow="fold")
    for heading in ("local RMS", "largest", "accumulated"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for row in proof.rows:
        judged = _judged(row)
        style = "green" if judged.verdict == "passed" else "bold red"
        accumulated = row.accumulated
        table.add_row(
            Text(str(row)), Text(row.value), _local(judged),
            _factor(judged.max_factor, judged, judged.max_limit),
            "-" if accumulated is None else _factor(accumulated.rms_factor, accumulated, None),
            Text(judged.verdict, style=style),
        )  # fmt: skip
    return table


def _judged(row: LayerRow) -> Judgement:
    """The level at which the row fails, where it does."""
    full = row.local_full
    return (
        full if full and full.verdict != "passed" and row.local.verdict == "passed" else row.local
    )


def _local(judged: Judgement) -> str:
    """In units of float32's own error; of a lower precision the signal-to-noise ratio."""
    if judged.snr_limit_db is not None:
        return signal_to_noise(judged)
    return _factor(judged.rms_factor, judged, judged.rms_limit)


def _factor(factor: float | None, judged: Judgement, limit: float | None) -> str:
    if judged.rms_scale is None:
        return f"{judged.rms_error or 0:.3%} differ"
    text = "infinite" if factor is None else f"{factor:.3g}"
    return text if limit is None else f"{text} (max {limit:g})"


def _left_out(proof: LayerProof) -> list[str]:
    """A line for each module; those that share a long list of reasons are counted."""
    reasons = Counter(item.reason for item in proof.not_compared)
    lines = []
    for reason, count in reasons.items():
        names = [item.module for item in proof.not_compared if item.reason == reason]
        rest = f" and {count - 3} more" if count > 4 else ""
        lines.append(f"not compared: {', '.join(names[: 3 if rest else 4])}{rest}: {reason}")
    return lines
