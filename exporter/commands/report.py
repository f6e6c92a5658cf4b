"""``twinport report``: one page about a version that can be sent to somebody."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from runtime.backends.base import BackendOptions
from runtime.settings import DEVICES, ENGINE_CODE


@click.command()
@click.argument("model", metavar="REPOSITORY/NAME", type=click.Path(path_type=Path))
@click.option("--version", type=click.IntRange(min=1), help="The highest where none is given.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="Where to.  [default: report.html in the version's folder]",
)  # fmt: skip
@click.option(
    "--device", type=click.Choice(DEVICES), default="cpu", show_default=True,
    help="Runs the samples, for ONNX Runtime; engines run on the GPU.",
)  # fmt: skip
@click.option(
    "--engine-code", type=click.Choice(ENGINE_CODE), default="refuse", show_default=True,
    help="Whether a version-compatible engine may run code that it brings.",
)  # fmt: skip
@click.option("--browse", is_flag=True, help="Open the page in a browser.")
def report(
    model: Path,
    version: int | None,
    output: Path | None,
    device: str,
    engine_code: str,
    browse: bool,
) -> None:
    """Write one HTML page about a version: graph, proof, examples, experts, engine.

    The page holds everything in itself, asks for no other file and no network, and works
    without JavaScript. Versions under failed/ have one too. The graph is drawn by Netron in
    a Chromium of the system; without that the page says so and the rest is whole.
    """
    from exporter.report.write import ReportRequest, write_report

    options = BackendOptions(device=device, engine_code=engine_code == "allow")
    request = ReportRequest(model, version, output, options)
    path = write_report(request, notify=lambda line: click.echo(line, err=True))
    click.echo(path)
    if browse and not webbrowser.open(path.resolve().as_uri()):
        click.echo("no browser was found to open it in", err=True)
