"""``twinport export``: a module into the model repository, with its proof."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from exporter.commands.engine import (
    FlavourType,
    ProfileType,
    record_of,
    refuse_failed,
    show_engine,
)
from exporter.commands.options import FILE, FOLDER, SizeType, source_options, specs_from_options
from runtime.cli import run_command
from runtime.commands.ranges import Within
from runtime.errors import UsageProblem
from runtime.tables import console, judgement_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from exporter.engine.after_export import EngineWish
    from exporter.engine.profiles import Profile
    from exporter.precision.pipeline import PrecisionWish
    from exporter.write import Written
    from runtime.manifest import KeptModule, Lowering
    from runtime.proof_records import Proof

MOE_FORMS = ("auto", "sorted", "static", "fused")
_SHOWN = 8
"""Modules that one line names."""
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@click.command()
@source_options
@click.option("-o", "--output", "repository", type=FOLDER, required=True,
              help="The model repository; made where it is not there.")  # fmt: skip
@click.option("--name", help="The model's name in the repository.  [default: the model's own]")
@click.option("--preprocess", is_flag=False, flag_value="auto", metavar="HOW",
              help="Let the model take pixels: 'auto' as it says itself, or "
              "'resize=32,scale=1/255,mean=0.13,std=0.31'; crop=, input=.")  # fmt: skip
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX operator set.")
@click.option("--moe-form", type=click.Choice(MOE_FORMS), default="auto", show_default=True,
              help="How layers of experts are written.")  # fmt: skip
@click.option("--data", type=FOLDER, help="Folder of MNIST; else TWINPORT_DATA, else ./data.")
@click.option("--samples", type=FILE, help=".npz with rows of real inputs to prove with.")
@click.option("--also-output", "also", multiple=True, metavar="MODULE",
              help="Of an inner module ('fc1'); sent to clients that ask for it.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
              help="Of the drawn inputs.")  # fmt: skip
@click.option("--proof-budget", type=Within(0), metavar="SECONDS",
              help="After which no more samples are begun.  [default: as long as the export "
              "took, from 5 to 20]")  # fmt: skip
@click.option("--allow-constant", multiple=True, metavar="OUTPUT",
              help="An output that may be the same for every input.")  # fmt: skip
@click.option("--allow-degraded-truth", is_flag=True,
              help="Accept a truth that an operator kept below float64.")  # fmt: skip
@click.option("--precision", "precisions", type=click.Choice(PRECISIONS), multiple=True,
              help="Make NAME_fp16 and so on beside it; may be given again.")  # fmt: skip
@click.option("--keep", multiple=True, metavar="MODULE",
              help="A module that stays fp32 in a lower precision.")  # fmt: skip
@click.option("--external-data", "data_above", type=SizeType(), default="1GB", show_default=True,
              help="Weights above this go to a file of their own beside it.")  # fmt: skip
@click.option("--engine", is_flag=True,
              help="Build a TensorRT engine of each proved version, too.")  # fmt: skip
@click.option("--flavour", type=FlavourType(), help="Of the engine; see twinport engine.")
@click.option("--profile", "profiles", multiple=True, type=ProfileType(),
              help="Sizes of the engine's free axes; see twinport engine.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as one JSON object.")
def export(
    model: str,
    weights: Path | None,
    inputs: tuple[str, ...],
    ranges: tuple[tuple[str, tuple[int, int]], ...],
    values: tuple[tuple[str, tuple[float, float]], ...],
    repository: Path,
    name: str | None,
    preprocess: str | None,
    opset: int,
    moe_form: str,
    data: Path | None,
    samples: Path | None,
    also: tuple[str, ...],
    seed: int,
    proof_budget: float | None,
    allow_constant: tuple[str, ...],
    allow_degraded_truth: bool,
    precisions: tuple[str, ...],
    keep: tuple[str, ...],
    data_above: int,
    engine: bool,
    flavour: str | None,
    profiles: tuple[Profile, ...],
    as_json: bool,
) -> None:
    """Export MODEL to ONNX, prove it against PyTorch, write a version.

    MODEL is a built-in model (lenet5), package.module:factory or path/to/file.py:factory,
    where the factory is called without arguments and returns a torch.nn.Module; or
    torchvision:NAME, or a .pt2 file of torch.export.save. Exits 1 where the proof fails; the
    version then lies under failed/ with all its numbers, and no engine is built.
    """
    # torch takes seconds to import; --help does not wait for it.
    from exporter.parity import ProofOptions
    from exporter.pipeline import ExportRequest, export_model
    from exporter.preprocess.words import words_from_text
    from exporter.source import SourceRequest

    source = SourceRequest(
        model, weights, specs_from_options(inputs), dict(ranges), dict(values), also
    )  # fmt: skip
    proof = ProofOptions(
        seed, 20.0 if proof_budget is None else proof_budget, frozenset(allow_constant),
        allow_degraded_truth, as_export=proof_budget is None,
    )  # fmt: skip
    wish = _engine_wish(engine, flavour, profiles)
    lower = _precision_wish(precisions, keep, data, samples)
    request = ExportRequest(
        source, repository, name, opset, data, samples, moe_form, proof, wish, data_above,
        lower, words_from_text(preprocess) if preprocess is not None else None,
    )  # fmt: skip
    with redirect_stdout(sys.stderr):  # a user's module may print; what we print is for programs
        written = export_model(request, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps(_record(written), indent=2))
    else:
        for version in (written, *written.lower):
            show_written(version)
            if version.engine is not None:
                show_engine(version.engine)
    for version in (written, *written.lower):
        refuse_failed(version)
        if version.engine is not None:
            refuse_failed(version.engine)


def _precision_wish(
    precisions: tuple[str, ...], keep: tuple[str, ...], data: Path | None, samples: Path | None
) -> PrecisionWish | None:
    """What ``--precision`` and ``--keep`` ask for.

    Raises:
        UsageProblem: A module is to be kept, and no precision is lower.
    """
    from exporter.precision.pipeline import PrecisionWish

    lower = tuple(dict.fromkeys(item for item in precisions if item != PRECISIONS[0]))
    if lower:
        return PrecisionWish(lower, keep, data, samples is not None)
    if keep:
        raise UsageProblem("--keep is of a lower precision; add --precision fp16, bf16 or int8")
    return None


def _engine_wish(
    wanted: bool, flavour: str | None, profiles: tuple[Profile, ...]
) -> EngineWish | None:
    """What ``--engine`` and its two options ask for.

    Raises:
        UsageProblem: The options are there and ``--engine`` is not.
    """
    from exporter.engine.after_export import EngineWish
    from exporter.engine.options import EngineOptions

    if wanted:
        return EngineWish(flavour, EngineOptions(profiles))
    if flavour or profiles:
        raise UsageProblem("--flavour and --profile are of an engine; add --engine")
    return None


def _record(written: Written) -> dict[str, Any]:
    record = record_of(written)
    if written.engine is not None:
        record["engine"] = record_of(written.engine)
    if written.lower:
        record["precisions"] = {
            item.manifest.artifact.precision: _record(item) for item in written.lower
        }
    return record


def show_written(written: Written) -> None:
    """Print the proofs as tables, what was lowered, and where the version lies."""
    manifest, out = written.manifest, console()
    assert manifest.proof is not None
    for proof in manifest.proofs:
        where = proof.provider if proof.judgements else "not run"
        out.print(
            f"{manifest.name} version {manifest.version}: {proof.library}, {where}, "
            f"truth {proof.truth}, {proof.seconds:.1f} s",
            markup=False,
        )
        if proof.judgements:
            out.print(judgement_table(proof.judgements))
        for line in _remarks(proof):
            out.print(line, markup=False)
    if manifest.artifact.lowering is not None:
        for line in _lowered(manifest.artifact.lowering, manifest.artifact.precision):
            out.print(line, markup=False)
    verdict = manifest.proof.verdict
    out.print(f"{verdict}: {written.folder}", markup=False, soft_wrap=True)
    if verdict == "pending":
        out.print(manifest.proof.reason, markup=False, soft_wrap=True)


def _lowered(lowering: Lowering, precision: str) -> list[str]:
    noise = "no noise" if lowering.snr_db is None else f"{lowering.snr_db:.1f} dB"
    operators = f"{lowering.operators} operator{'s' * (lowering.operators != 1)}"
    lines = [
        f"{precision}: {operators}, {noise} with every value rounded, "
        f"measured on {lowering.calibration}"
    ]
    lines += [
        f"quantised: {item.operator} {item.module or item.node}, {item.weight}, "
        f"{item.channels} channels"
        for item in lowering.quantised
    ]
    reasons = dict.fromkeys(item.reason for item in lowering.kept)
    return lines + [f"kept fp32: {_kept(lowering.kept, reason)}: {reason}" for reason in reasons]


def _kept(kept: Sequence[KeptModule], reason: str) -> str:
    """``conv1, fc2 and 3 more modules (7 operators)``."""
    same = [item for item in kept if item.reason == reason]
    names = [item.module or "the root" for item in same]
    more = f" and {len(names) - _SHOWN} more modules" if len(names) > _SHOWN else ""
    operators = sum(item.operators for item in same)
    plural = "" if operators == 1 else "s"
    return f"{', '.join(names[:_SHOWN])}{more} ({operators} operator{plural})"


def _remarks(proof: Proof) -> list[str]:
    lines = [f"{'batchable' if proof.batchable else 'not batchable'}: {proof.batchable_reason}"]
    if labels := proof.labels:
        excused = f", {labels.excused} within tolerance of a tie" if labels.excused else ""
        least = "" if labels.fewest is None else f" (min {labels.fewest})"
        lines.append(
            f"labels: {labels.agreeing} of {labels.samples} of {labels.dataset} as the truth has "
            f"them{least}{excused}; accuracy {labels.artifact_accuracy:.2%}, "
            f"PyTorch {labels.torch_accuracy:.2%}"
        )
    if routing := proof.routing:
        lines.append(
            f"routing: {routing.samples - routing.unstable} of {routing.samples} samples stable, "
            f"{routing.reached} of {len(routing.layers) * routing.experts} experts reached"
            + (f" ({routing.search_steps} steps of search)" if routing.search_steps else "")
        )
    lines += [f"allowed: {waiver}" for waiver in proof.allowed]
    lines += [f"warning: {warning}" for warning in proof.warnings]
    return lines


def program() -> None:
    """The program ``export``; every shell has a builtin of that name, so call it by path."""
    sys.exit(run_command(export, name="export"))
