"""Everything that the page says, gathered from a version's folder and this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from exporter.look.netron_picture import draw
from exporter.report.balance import KindLoad, expert_loads
from exporter.report.engine import EngineFacts, engine_facts
from exporter.report.examples import Examples, examples_from
from exporter.report.here import Here, run_here
from exporter.report.plots import error_plots, load_plot
from exporter.report.precisions import PrecisionRow, precision_rows
from exporter.report.standing import Standing, standing_of
from exporter.report.structure import Structure, structure_of
from exporter.report.svg import inlined_svg, svg_width
from exporter.report.words import without_folders
from exporter.summary import graph_to_look_at
from runtime.backends.base import BackendOptions
from runtime.errors import RepositoryError, TwinportError
from runtime.golden import Golden, read_golden
from runtime.layout import FAILED_FOLDER
from runtime.manifest import Manifest
from runtime.replay import check_sha256, made_again

Draw = Callable[[Path], str]
"""An ONNX file to an SVG document of its graph."""
GRAPH = "graph"
_NARROW = 640
"""Pixels that a drawing may have beside the table of modules."""


@dataclass(frozen=True)
class Picture:
    """The graph, or why it is not there.

    Attributes:
        svg: None where it could not be drawn.
        view: Whether this is a file made to be looked at and not the artifact.
        large: Whether it is too wide to be read beside something else.
        reason: One line; empty where there is a drawing.
    """

    svg: Markup | None
    view: bool
    large: bool
    reason: str


@dataclass(frozen=True)
class Facts:
    """What the page is made of.

    Attributes:
        model: Name of the model's folder.
        troubles: What is wrong with the files, one line each.
        structure: None where no ONNX file can be read.
        artifact_bytes: Its file's size; none where it is missing.
        plots: Of each proof, in the manifest's order.
        again: Plots of the replay of this page, where they differ from the proof's.
        examples: None where there are none to show.
        no_examples: Why not; empty where there are some.
        loads: Empty without layers of experts; each with its heat map.
        engine: None where the artifact is no engine.
        precisions: Of the model in this repository; empty where there is one alone.
    """

    model: str
    failed_folder: bool
    manifest: Manifest
    standing: Standing
    troubles: tuple[str, ...]
    picture: Picture
    structure: Structure | None
    plots: tuple[tuple[Markup, ...], ...]
    artifact_bytes: int | None
    here: Here
    again: tuple[Markup, ...]
    examples: Examples | None
    no_examples: str
    loads: tuple[tuple[KindLoad, Markup], ...]
    engine: EngineFacts | None
    precisions: tuple[PrecisionRow, ...] = ()


def gather_facts(
    folder: Path, manifest: Manifest, options: BackendOptions, drawing: Draw | None = None
) -> Facts:
    """Read a version, run it where that is possible, draw what is to be drawn.

    What is missing or damaged becomes a line of the page, so that the rest is whole.

    Args:
        folder: The version's folder.
        manifest: Its manifest.
        options: How the artifact is run here.
        drawing: What draws the graph; Netron where nothing is given.
    """
    troubles = _troubles(folder, manifest)
    engine = engine_facts(folder, manifest)
    golden = _golden(folder, manifest) if not troubles else None
    here = Here(reason=troubles[0]) if troubles else Here(reason="the version carries no evidence")
    if golden is not None:
        here = run_here(folder, manifest, golden, options)
    examples, no_examples = _examples(golden, manifest, here)
    failed = folder.parent.name == FAILED_FOLDER
    sources = [engine.source] if engine is not None and engine.source is not None else []
    loads = () if golden is None else expert_loads(golden, [manifest, *sources], here)
    return Facts(
        model=(folder.parent.parent if failed else folder.parent).name,
        failed_folder=failed,
        manifest=manifest,
        standing=standing_of(manifest, here, troubles, engine),
        troubles=troubles,
        picture=_picture(folder, manifest, drawing or drawn_by_netron),
        structure=_structure(folder, manifest, engine),
        plots=tuple(
            error_plots(proof.judgements, f"proof{index}")
            for index, proof in enumerate(manifest.proofs)
        ),
        artifact_bytes=_size(folder / Path(manifest.artifact.file).name),
        here=here,
        again=_plots_again(manifest, here),
        examples=examples,
        no_examples=no_examples,
        loads=tuple((load, load_plot(load, f"load{i}")) for i, load in enumerate(loads)),
        engine=engine,
        precisions=precision_rows(folder, manifest, golden, options),
    )


def _examples(golden: Golden | None, manifest: Manifest, here: Here) -> tuple[Examples | None, str]:
    if golden is None:
        return None, here.reason
    try:
        found = examples_from(golden, manifest, here)
    except TwinportError as error:
        return None, str(error)
    return (found, "") if found.shown else (None, "the evidence holds no real or random inputs")


def _plots_again(manifest: Manifest, here: Here) -> tuple[Markup, ...]:
    """Of the replay here; those of a proof that it confirms would be the same twice."""
    proof, replayed = manifest.proof, here.replayed
    confirmed = proof is not None and proof.judgements and replayed is not None
    if replayed is None or (confirmed and replayed.verdict == "passed"):
        return ()
    return error_plots(replayed.judgements, "again")


def drawn_by_netron(file: Path) -> str:
    """The graph of an ONNX file as SVG.

    Raises:
        BackendUnavailable: Chromium is missing.
        ExportError: Netron cannot draw it.
    """
    with tempfile.TemporaryDirectory(prefix="twinport-report-") as folder:
        picture = Path(folder) / "graph.svg"
        draw(file, [picture])
        return picture.read_text(encoding="utf-8")


def _troubles(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    files = [(manifest.artifact.file, manifest.artifact.sha256)]
    files += [(item.file, item.sha256) for item in manifest.artifact.data]
    if manifest.evidence is not None:
        files.append((manifest.evidence.file, manifest.evidence.sha256))
    troubles = []
    for name, expected in files:
        try:
            # A name with folders in it would lead out of the version.
            check_sha256(folder / Path(name).name, expected, made_again(manifest))
        except RepositoryError as error:
            troubles.append(without_folders(str(error), folder))
    return tuple(troubles)


def _size(file: Path) -> int | None:
    return file.stat().st_size if file.is_file() else None


def _golden(folder: Path, manifest: Manifest) -> Golden | None:
    """The evidence; its digest was compared before."""
    evidence = manifest.evidence
    return None if evidence is None else read_golden(folder / Path(evidence.file).name)


def _picture(folder: Path, manifest: Manifest, drawing: Draw) -> Picture:
    artifact = folder / Path(manifest.artifact.file).name
    if not artifact.is_file():
        return Picture(None, False, False, f"{artifact.name} is not there")
    try:
        file = graph_to_look_at(artifact)
        svg = inlined_svg(drawing(file), GRAPH, "The graph as Netron draws it")
    except TwinportError as error:
        return Picture(None, False, False, without_folders(str(error), folder))
    return Picture(svg, file != artifact, svg_width(svg) > _NARROW, "")


def _structure(folder: Path, manifest: Manifest, engine: EngineFacts | None) -> Structure | None:
    """Of the artifact, or of the ONNX file that an engine was built from."""
    where, of = folder, manifest
    if engine is not None:
        if engine.source is None or engine.source_folder is None:
            return None
        where, of = engine.source_folder, engine.source
    try:
        return structure_of(where / Path(of.artifact.file).name, of)
    except TwinportError:
        return None
