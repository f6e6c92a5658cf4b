"""``twinport inspect``: what a model or an artifact is made of."""

from __future__ import annotations

import dataclasses
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from exporter.commands.options import source_options, specs_from_options
from runtime.errors import UsageProblem
from runtime.tables import console, judgement_table

if TYPE_CHECKING:
    from exporter.module_summary import Layer
    from exporter.source import Source
    from exporter.summary import ArtifactSummary
    from runtime.manifest import Manifest


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
        click.echo(json.dumps(_module_record(source, layers), indent=2))
    else:
        _print_module(source, layers)


def _show_artifact(path: Path, netron: bool, port: int, as_json: bool) -> None:
    from exporter.summary import graph_to_look_at, summary_from_path

    summary = summary_from_path(path)
    if as_json:
        record = dataclasses.asdict(summary) | {"file": str(summary.file)}
        click.echo(json.dumps(record, indent=2))
    else:
        _print_artifact(summary)
    if netron:
        _serve_netron(graph_to_look_at(summary.file), port)


def _serve_netron(file: Path, port: int) -> None:
    from exporter.netron_view import netron_on

    with netron_on(file, port) as address:
        click.echo(f"Netron shows {file.name} at {address} (Ctrl-C stops it)")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("stopped")


def _print_artifact(summary: ArtifactSummary) -> None:
    out = console()
    out.print(f"{summary.file}  {summary.bytes:,} bytes", markup=False, soft_wrap=True)
    out.print(f"opset {summary.opset}, made by {summary.producer}", markup=False)
    for what, specs in (("input", summary.inputs), ("output", summary.outputs)):
        for spec in specs:
            out.print(f"{what} {spec.name}: {spec}", markup=False)
    nodes = ", ".join(f"{count} {kind}" for kind, count in summary.operators.items())
    out.print(f"{sum(summary.operators.values())} nodes: {nodes}", markup=False)
    out.print(f"{summary.parameters:,} elements in initializers", markup=False)
    if summary.manifest is None:
        out.print("no manifest beside it: nothing is known of where it came from", markup=False)
    else:
        _print_manifest(summary.manifest)


def _print_manifest(manifest: Manifest) -> None:
    out, source = console(), manifest.source
    out.print(
        f"from {source.factory} ({source.module_class}), {source.parameters:,} parameters, "
        f"checkpoint sha256 {(source.checkpoint_sha256 or 'none')[:12]}",
        markup=False,
    )
    producers = ", ".join(f"{name} {of}" for name, of in manifest.artifact.producers.items())
    out.print(f"created {manifest.created} with {producers}", markup=False)
    for proof in manifest.proofs:
        state = f"{proof.verdict}: {proof.reason}" if proof.reason else proof.verdict
        out.print(f"proof on {proof.provider} ({proof.library}): {state}", markup=False)
        out.print(judgement_table(proof.judgements))
        out.print(
            f"{'batchable' if proof.batchable else 'not batchable'}: {proof.batchable_reason}",
            markup=False,
        )


def _print_module(source: Source, layers: tuple[Layer, ...]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("layer", "class", "output"):
        table.add_column(heading, no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    for layer in layers:
        shapes = ", ".join(str(list(shape)) for shape in layer.shapes)
        table.add_row(layer.name, layer.module_class, shapes, f"{layer.parameters:,}")
    out = console()
    out.print(f"{source.name}: {source.module_class}", markup=False)
    for spec in source.inputs:
        out.print(f"input {spec.name}: {spec}", markup=False)
    out.print(table)
    trainable = sum(p.numel() for p in source.module.parameters() if p.requires_grad)
    out.print(
        f"{source.parameters:,} parameters, {trainable:,} of them trainable; outputs are "
        "shown for the example's sizes of the free axes",
        markup=False,
    )


def _module_record(source: Source, layers: tuple[Layer, ...]) -> dict[str, Any]:
    return {
        "name": source.name,
        "class": source.module_class,
        "inputs": [dataclasses.asdict(spec) for spec in source.inputs],
        "parameters": source.parameters,
        "layers": [dataclasses.asdict(layer) for layer in layers],
    }
