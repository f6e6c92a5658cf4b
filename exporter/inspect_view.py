"""What ``twinport inspect`` prints of an artifact and of a module."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from exporter.engine.summary import EngineSummary, module_table, print_engine
from runtime.tables import console, judgement_table

if TYPE_CHECKING:
    from exporter.engine.layers import EngineNetwork
    from exporter.module_summary import Layer
    from exporter.source import Source
    from exporter.summary import ArtifactSummary
    from runtime.manifest import Manifest


SHOWN = 12
"""Names in one line; the picture has them all."""


def print_artifact(summary: ArtifactSummary | EngineSummary) -> None:
    """The file in numbers, then where it came from and what was proved."""
    if isinstance(summary, EngineSummary):
        print_engine(summary)
    else:
        _print_graph(summary)
    if summary.manifest is not None:
        _print_manifest(summary.manifest)


def _print_graph(summary: ArtifactSummary) -> None:
    out = console()
    beside = f" and {summary.data_bytes:,} of weights beside it" if summary.data_bytes else ""
    out.print(f"{summary.file}  {summary.bytes:,} bytes{beside}", markup=False, soft_wrap=True)
    out.print(f"opset {summary.opset}, made by {summary.producer}", markup=False)
    for what, specs in (("input", summary.inputs), ("output", summary.outputs)):
        for spec in specs:
            out.print(f"{what} {spec.name}: {spec}", markup=False)
    nodes = ", ".join(f"{count} {kind}" for kind, count in summary.operators.items())
    out.print(f"{sum(summary.operators.values())} nodes: {nodes}", markup=False)
    out.print(f"{summary.parameters:,} elements in initializers", markup=False)
    if summary.manifest is None:
        out.print("no manifest beside it: nothing is known of where it came from", markup=False)


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
        ran = f" on {proof.provider} ({proof.library})" if proof.verdict != "pending" else ""
        out.print(f"proof{ran}: {state}", markup=False)
        if proof.judgements:
            out.print(judgement_table(proof.judgements))
        out.print(
            f"{'batchable' if proof.batchable else 'not batchable'}: {proof.batchable_reason}",
            markup=False,
        )


def print_fused(network: EngineNetwork) -> None:
    """The layers that the engine's library made, by the modules that they came from."""
    out = console()
    out.print(f"{len(network.layers)} layers as the library fused them", markup=False)
    out.print(module_table(network))


def print_module(source: Source, layers: tuple[Layer, ...]) -> None:
    """A table of the layers."""
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


def module_record(source: Source, layers: tuple[Layer, ...]) -> dict[str, Any]:
    """The same for ``--json``."""
    return {
        "name": source.name,
        "class": source.module_class,
        "inputs": [dataclasses.asdict(spec) for spec in source.inputs],
        "parameters": source.parameters,
        "layers": [dataclasses.asdict(layer) for layer in layers],
    }


def print_gradients(picture: Path, marks: Mapping[str, str]) -> None:
    """Where the autograd graph is, and what receives no gradient in it."""
    names = [
        name if name.startswith(f"{mark} ") else f"{name} ({mark})" for name, mark in marks.items()
    ]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    out = console()
    out.print(f"autograd graph: {picture}", markup=False, soft_wrap=True)
    out.print(f"no gradient for {', '.join(names[:SHOWN] + more) or 'nothing'}", markup=False)
