"""``twinport inspect``: what a model or an artifact is made of."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path

import click

from exporter.commands.options import source_options, specs_from_options
from exporter.inspect_view import module_record, print_artifact, print_module
from runtime.errors import UsageProblem


@click.command()
@source_options
@click.option("--netron", is_flag=True, help="Serve the graph with Netron until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of Netron.  [default: any]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(
    model: str,
    weights: Path | None,
    inputs: tuple[str, ...],
    ranges: tuple[tuple[str, tuple[int, int]], ...],
    values: tuple[tuple[str, tuple[float, float]], ...],
    netron: bool,
    port: int,
    as_json: bool,
) -> None:
    """Show what MODEL is made of.

    MODEL is a path (an .onnx file, REPOSITORY/NAME or one of its versions), or a module as
    `twinport export` takes it (lenet5, package.module:factory, file.py:factory), which is
    shown layer by layer.
    """
    path = Path(model)
    if ":" not in model and (path.exists() or path.suffix or len(path.parts) > 1):
        _show_artifact(Path(model), netron, port, as_json)
        return
    if netron:
        raise UsageProblem(f"--netron shows a file and '{model}' is none; export it first")
    from exporter.module_summary import layers_of
    from exporter.source import SourceRequest, load_source

    request = SourceRequest(model, weights, specs_from_options(inputs), dict(ranges), dict(values))
    source = load_source(request)
    layers = layers_of(source)
    if as_json:
        click.echo(json.dumps(module_record(source, layers), indent=2))
    else:
        print_module(source, layers)


def _show_artifact(path: Path, netron: bool, port: int, as_json: bool) -> None:
    from exporter.summary import graph_to_look_at, summary_from_path

    summary = summary_from_path(path)
    if as_json:
        record = dataclasses.asdict(summary) | {"file": str(summary.file)}
        click.echo(json.dumps(record, indent=2))
    else:
        print_artifact(summary)
    if netron:
        _serve_netron(graph_to_look_at(summary.file), port)


def _serve_netron(file: Path, port: int) -> None:
    from exporter.look.netron_page import netron_on

    with netron_on(file, port) as address:
        click.echo(f"Netron shows {file.name} at {address} (Ctrl-C stops it)")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("stopped")
