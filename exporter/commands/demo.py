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
from runtime.tables import console

if TYPE_CHECKING:
    from exporter.demo import Answers

MODEL = "lenet5"
IMAGES = 500
SHOWN = 10


@click.command()
@click.option("--data", type=FOLDER,
              help="Folder of MNIST; else TWINPORT_DATA; else the bundled digits.")  # fmt: skip
@click.option("-o", "--output", type=FOLDER, help="The model repository.  [default: a new folder]")
def demo(data: Path | None, output: Path | None) -> None:
    """Export lenet5, prove it, serve it, ask it for real digits, compare with PyTorch.

    Exits 0 where every served label is PyTorch's and the logits are within tolerance.
    """
    from exporter.demo import ask, first_rows, serving
    from exporter.pipeline import ExportRequest, export_model
    from exporter.real import digit_data
    from exporter.source import SourceRequest, load_source

    repository = output or Path(tempfile.mkdtemp(prefix="twinport-demo-"))
    request = SourceRequest(MODEL)
    written = export_model(ExportRequest(request, repository, data=data), click.echo)
    show_written(written)
    if written.manifest.proof is None or written.manifest.proof.verdict != "passed":
        raise ProofFailed(f"the proof of {MODEL} failed; its numbers are in {written.folder}")
    source = load_source(request)
    real = first_rows(digit_data(source, data), IMAGES)
    with serving(repository) as address:
        click.echo(f"serving {repository} at {address}, asking for {len(real)} of {real.name}")
        answers = ask(address, MODEL, source, real)
    click.echo("server stopped")
    _show(answers)
    if not answers.passed:
        raise ProofFailed(
            f"the server agrees with PyTorch on {answers.agreeing} of {len(real)} labels; "
            f"logits {answers.judgement.verdict} {answers.judgement.reason}".rstrip()
        )
    click.echo(f"the repository is {repository}; serve it: twinport serve {repository}")


def _show(answers: Answers) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("image", "served", "PyTorch", "true"):
        table.add_column(heading, justify="right")
    for row in range(min(SHOWN, len(answers.served))):
        table.add_row(
            str(row), str(answers.served[row]), str(answers.pytorch[row]), str(answers.truth[row])
        )
    out = console()
    out.print(table)
    right = float((answers.served == answers.truth).mean())
    item = answers.judgement
    out.print(
        f"labels: {answers.agreeing} of {len(answers.served)} as PyTorch has them; "
        f"{right:.1%} of them right",
        markup=False,
    )
    out.print(
        f"logits: RMS error {item.rms_factor or 0:.3g} x float32's own (max {item.rms_limit:g}), "
        f"largest {item.max_factor or 0:.3g} x (max {item.max_limit:g}): {item.verdict}",
        markup=False,
    )
