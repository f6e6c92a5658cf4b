"""``twinport inspect``: what a model or an artifact is made of, in words and in pictures."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import webbrowser
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from exporter.commands.options import FILE, source_options, specs_from_options
from exporter.inspect_view import (
    module_record,
    print_artifact,
    print_fused,
    print_gradients,
    print_module,
)
from exporter.look.asked import Looks
from runtime.errors import UsageProblem
from runtime.settings import ENGINE_CODE


@click.command()
@source_options
@click.option("--svg", type=FILE, metavar="FILE.svg", help="Draw the graph, by Netron.")
@click.option("--png", type=FILE, metavar="FILE.png", help="The same as pixels.")
@click.option("--browse", is_flag=True, help="Open the graph in your browser, until Ctrl-C.")
@click.option("--netron", is_flag=True, help="Only serve it for a browser, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of both.  [default: any]")
@click.option(
    "--inspector",
    is_flag=True,
    help="Show an engine as its library fused it; needs the GPU that it is for.",
)
@click.option(
    "--engine-code",
    type=click.Choice(ENGINE_CODE),
    default="refuse",
    show_default=True,
    help="Whether --inspector may run code that a version-compatible engine brings.",
)
@click.option(
    "--autograd",
    type=FILE,
    metavar="FILE",
    help="Draw a module's autograd graph, what gets no gradient marked; .svg, .png or .pdf.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(
    model: str,
    svg: Path | None,
    png: Path | None,
    browse: bool,
    netron: bool,
    port: int,
    inspector: bool,
    engine_code: str,
    autograd: Path | None,
    as_json: bool,
    **source: Any,
) -> None:
    """Show what MODEL is made of.

    MODEL is a path (an .onnx file, REPOSITORY/NAME or one of its versions), or a module as
    `twinport export` takes it (lenet5, package.module:factory, file.py:factory), which is
    shown layer by layer. A path's graph is drawn with --svg and --png, a module's with
    --autograd.
    """
    code = engine_code == "allow"
    looks = Looks(svg, png, browse, netron, port, inspector, autograd, engine_code=code)
    path = Path(model)
    if ":" not in model and (path.exists() or path.suffix or len(path.parts) > 1):
        if autograd is not None:
            raise UsageProblem(
                f"--autograd draws a module and '{model}' is a path; give lenet5, or your own "
                "package.module:factory"
            )
        _show_artifact(path, looks, as_json)
        return
    if looks.of_graph:
        raise UsageProblem(
            f"{looks.of_graph[0]} shows a file and '{model}' is none; export it first"
        )
    _show_module(model, source, autograd, as_json)


def _show_artifact(path: Path, looks: Looks, as_json: bool) -> None:
    from exporter.engine.summary import engine_summary, holds_engine
    from exporter.look.graph import graph_of
    from exporter.summary import artifact_file, summary_from_path

    file = artifact_file(path)
    summary = engine_summary(file) if holds_engine(file) else summary_from_path(file)
    with graph_of(summary.file, looks) as graph:
        if looks.pictures:
            from exporter.look.netron_picture import draw

            draw(graph.file, looks.pictures)
        if as_json:
            record = {**dataclasses.asdict(summary), "file": str(summary.file), **graph.record}
            if looks.pictures:
                record["pictures"] = list(map(str, looks.pictures))
            click.echo(json.dumps(record, indent=2))
        else:
            print_artifact(summary)
            if graph.fused is not None:
                print_fused(graph.fused)
            for picture in looks.pictures:
                click.echo(f"picture of {graph.file.name}: {picture}")
        if looks.browse or looks.netron:
            _serve_netron(graph.file, looks, as_json)


def _serve_netron(file: Path, looks: Looks, as_json: bool) -> None:
    from exporter.look.netron_page import netron_on

    with netron_on(file, looks.port) as address:
        try:
            # What is printed as JSON stays one object.
            click.echo(f"Netron shows {file.name} at {address} (Ctrl-C stops it)", err=as_json)
            if looks.browse and not webbrowser.open(address):
                click.echo("no browser could be opened; open the address in one", err=True)
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("stopped", err=as_json)


def _show_module(model: str, given: dict[str, Any], picture: Path | None, as_json: bool) -> None:
    from exporter.module_summary import layers_of
    from exporter.source import SourceRequest, load_source

    request = SourceRequest(
        model, given["weights"], specs_from_options(given["inputs"]), dict(given["ranges"]),
        dict(given["values"]),
    )  # fmt: skip
    with redirect_stdout(sys.stderr):  # a user's module may print
        source = load_source(request)
        layers = layers_of(source)
    marks = None
    if picture is not None:
        from exporter.look.gradients import draw_gradients

        marks = draw_gradients(source, picture)
    if as_json:
        record = module_record(source, layers)
        if marks is not None:
            record["autograd"] = {"picture": str(picture), "no_gradient": marks}
        click.echo(json.dumps(record, indent=2))
        return
    print_module(source, layers)
    if marks is not None and picture is not None:
        print_gradients(picture, marks)
