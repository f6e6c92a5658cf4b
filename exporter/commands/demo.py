"""``twinport demo``: the way from the checkpoint in the project to an answered request."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from exporter.commands.export import show_written
from exporter.commands.options import FOLDER
from runtime.errors import ProofFailed
from runtime.proof import first_failure
from runtime.tables import console

if TYPE_CHECKING:
    from exporter.demo import Answers

MODELS = ("lenet5", "moe")
IMAGES = 500
SHOWN = 10


@click.command()
@click.option("--data", type=FOLDER,
              help="Folder of MNIST; else TWINPORT_DATA; else the bundled digits.")  # fmt: skip
@click.option("-o", "--output", type=FOLDER, help="The model repository.  [default: a new folder]")
def demo(data: Path | None, output: Path | None) -> None:
    """Export lenet5 and moe, prove them, serve them, ask for real digits, compare.

    Exits 0 where every served label is PyTorch's and the outputs are within tolerance.
    """
    from exporter.demo import ask, first_rows, serving
    from exporter.real import digit_data
    from exporter.source import SourceRequest, load_source

    repository = output or Path(tempfile.mkdtemp(prefix="twinport-demo-"))
    for model in MODELS:
        _export(model, repository, data)
    sources = {model: load_source(SourceRequest(model)) for model in MODELS}
    real = first_rows(digit_data(sources[MODELS[0]], data), IMAGES)
    with serving(repository) as address:
        click.echo(f"serving {repository} at {address}, asking for {len(real)} of {real.name}")
        answers = {model: ask(address, model, sources[model], real) for model in MODELS}
    click.echo("server stopped")
    _show(answers)
    for model, answer in answers.items():
        if not answer.passed:
            raise ProofFailed(
                f"{model}: the server agrees with PyTorch on {answer.agreeing} of {len(real)} "
                f"labels; {first_failure(answer.judgements)}"
            )
    click.echo(f"the repository is {repository}; serve it: twinport serve {repository}")


def _export(model: str, repository: Path, data: Path | None) -> None:
    from exporter.pipeline import ExportRequest, export_model
    from exporter.source import SourceRequest

    request = ExportRequest(SourceRequest(model), repository, data=data)
    written = export_model(request, click.echo)
    show_written(written)
    if written.manifest.proof is None or written.manifest.proof.verdict != "passed":
        raise ProofFailed(f"the proof of {model} failed; its numbers are in {written.folder}")


def _show(answers: dict[str, Answers]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("image", justify="right")
    for model in answers:
        table.add_column(f"{model} served", justify="right")
        table.add_column(f"{model} PyTorch", justify="right")
    table.add_column("true", justify="right")
    first = next(iter(answers.values()))
    for row in range(min(SHOWN, len(first.served))):
        cells = [str(value[row]) for a in answers.values() for value in (a.served, a.pytorch)]
        table.add_row(str(row), *cells, str(first.truth[row]))
    out = console()
    out.print(table)
    for model, answer in answers.items():
        for line in _lines(answer):
            out.print(f"{model} {line}", markup=False)


def _lines(answer: Answers) -> list[str]:
    right = float((answer.served == answer.truth).mean())
    item = answer.judgements[0]
    lines = [
        f"labels: {answer.agreeing} of {len(answer.served)} as PyTorch has them; "
        f"{right:.1%} of them right",
        f"logits: RMS error {item.rms_factor or 0:.3g} x float32's own (max {item.rms_limit:g}), "
        f"largest {item.max_factor or 0:.3g} x (max {item.max_limit:g}): {item.verdict}",
    ]
    if answer.load is not None:
        load = answer.judgements[1]
        layers, experts = answer.load.shape
        lines.append(
            f"expert load: {answer.load.sum():,} tokens over {layers} x {experts} experts, "
            f"{load.rms_error or 0:.1%} of the counts differ from the truth's: {load.verdict}"
        )
    return lines
