"""``twinport engine``: a proved version into a TensorRT engine beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from runtime.backends.plan import FLAVOURS
from runtime.errors import ExportError, ProofFailed, UsageProblem
from runtime.tables import console, judgement_table

if TYPE_CHECKING:
    from exporter.engine.check import Checked
    from exporter.engine.profiles import Profile
    from exporter.write import Written

MIB = 1024 * 1024
OF_CHECK = ("model", "version", "flavour", "check", "as_json")
"""Parameters that ``--check`` follows."""


class FlavourType(click.Choice[str]):
    """The name of a library, with a hyphen or an underscore."""

    def __init__(self) -> None:
        super().__init__(list(FLAVOURS))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """``tensorrt-rtx`` is the name of the package."""
        return super().convert(str(value).replace("-", "_"), param, ctx)


class ProfileType(click.ParamType["Profile"]):
    """``batch=1,8,64``; several axes parted by a semicolon."""

    name = "AXIS=MIN,OPT,MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Profile:
        """Read one text; click asks with what was read already, too."""
        from exporter.engine.profiles import profile_from_text

        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return profile_from_text(value)
        except UsageProblem as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("model", metavar="REPOSITORY/NAME", type=click.Path(path_type=Path))
@click.option("--version", type=click.IntRange(min=1), help="The highest where none is given.")
@click.option("--flavour", type=FlavourType(),
              help="The library.  [default: the one installed, full TensorRT first]")  # fmt: skip
@click.option("--name", help="The engine's name.  [default: NAME_trt or NAME_rtx]")
@click.option("--profile", "profiles", multiple=True, type=ProfileType(),
              help="Sizes of the free axes: 'batch=1,8,64', with more axes 'batch=1,8,64;"
                   "seq=16,128,512'. Repeat for several profiles.  "
                   "[default: the sizes it was exported for]")  # fmt: skip
@click.option("--timing-cache", type=click.Path(path_type=Path),
              help="Read before the build, written after it.")  # fmt: skip
@click.option("--optimization-level", type=click.IntRange(0, 5), default=3, show_default=True,
              help="0 builds fastest, 5 searches longest.")  # fmt: skip
@click.option("--workspace", type=click.IntRange(1), metavar="MIB",
              help="Limit of scratch memory.  [default: the library's]")  # fmt: skip
@click.option("--hardware-compatibility", default="none", show_default=True,
              type=click.Choice(["none", "ampere_plus", "same_compute_capability"]),
              help="Other GPUs that the engine is for.")  # fmt: skip
@click.option("--compute-capability", "capabilities", multiple=True, metavar="X.Y",
              help="A GPU to build for: '8.9'. Repeat for several.")  # fmt: skip
@click.option("--version-compatible", is_flag=True,
              help="For later versions of full TensorRT, too.")  # fmt: skip
@click.option("--tf32", is_flag=True, help="Let products be rounded to 10 bits.")
@click.option("--check", is_flag=True,
              help="Only say of every node whether the library takes it.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def engine(
    model: Path,
    version: int | None,
    flavour: str | None,
    name: str | None,
    profiles: tuple[Profile, ...],
    timing_cache: Path | None,
    optimization_level: int,
    workspace: int | None,
    hardware_compatibility: str,
    capabilities: tuple[str, ...],
    version_compatible: bool,
    tf32: bool,
    check: bool,
    as_json: bool,
) -> None:
    """Build a TensorRT engine from the proved version REPOSITORY/NAME, beside it.

    Precision is that of the graph. The engine carries the evidence of the version: its proof
    runs here where a GPU can run it, and else is pending until a server with one starts.
    """
    # NumPy and ONNX take a moment to import; --help does not wait for them.
    from exporter.engine.options import EngineOptions
    from exporter.engine.pipeline import EngineRequest, build_engine
    from exporter.engine.progress import BuildView

    if check:
        _refuse_build_options()
        _check(model, version, flavour, as_json)
        return
    options = EngineOptions(
        profiles, timing_cache, optimization_level, workspace * MIB if workspace else None,
        hardware_compatibility, version_compatible, tf32, capabilities,
    )  # fmt: skip
    with BuildView() as view:
        written = build_engine(EngineRequest(model, version, flavour, name, options), view)
    if as_json:
        click.echo(json.dumps(record_of(written), indent=2))
    else:
        show_engine(written)
    refuse_failed(written)


def _refuse_build_options() -> None:
    """``--check`` builds nothing, so what only a build follows is a mistake beside it.

    Raises:
        UsageProblem: Such an option was given.
    """
    context = click.get_current_context()
    given = [
        param.opts[0]
        for param in context.command.params
        if param.name not in OF_CHECK
        and context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageProblem(f"--check builds nothing; leave {', '.join(given)} out")


def _check(model: Path, version: int | None, flavour: str | None, as_json: bool) -> None:
    """Print a line a node.

    Raises:
        ExportError: Some node is not taken.
    """
    from exporter.engine.check import TAKEN, check_model

    checked = check_model(model, version, flavour)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(checked), indent=2))
    else:
        _show_check(checked)
    taken = checked.count(TAKEN)
    if taken < len(checked.nodes):
        others = [item for item in checked.nodes if item.verdict != TAKEN]
        first = others[0]
        raise ExportError(
            f"{len(others)} of {len(checked.nodes)} nodes are not taken, first '{first.node}' "
            f"({first.operator}): {first.reason}"
        )


def _show_check(checked: Checked) -> None:
    """A row a node; the reasons in lines below, since they are long."""
    from exporter.engine.check import TAKEN

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("node", "operator", "module", "parser"):
        table.add_column(heading, overflow="fold")
    for item in checked.nodes:
        name = f"{item.within} > {item.node}" if item.within else item.node
        style = "" if item.verdict == TAKEN else "bold red"
        table.add_row(
            Text(name), Text(item.operator), Text(item.module or ""), Text(item.verdict, style)
        )
    out = console()
    out.print(table)
    for item in checked.nodes:
        if item.verdict != TAKEN:
            parts = f"{item.node}: {item.reason}", item.cure
            out.print("; ".join(part for part in parts if part), markup=False, soft_wrap=True)
    title = FLAVOURS[checked.flavour].title
    out.print(
        f"{title} {checked.version} takes {checked.count(TAKEN)} of {len(checked.nodes)} nodes",
        markup=False,
    )


def record_of(written: Written) -> dict[str, Any]:
    """The manifest and where it lies."""
    return {"folder": str(written.folder), **dataclasses.asdict(written.manifest)}


def refuse_failed(written: Written) -> None:
    """Exit 1 where what was written is shown to be another model.

    Raises:
        ProofFailed: Its proof failed.
    """
    proof = written.manifest.proof
    if proof is None or proof.verdict == "failed":
        raise ProofFailed(
            f"the proof of {written.manifest.name} failed: {proof.reason if proof else 'none made'}"
        )


def show_engine(written: Written) -> None:
    """Print what was built, for which sizes, and how its proof stands."""
    from exporter.engine.layers import FILE_NAME, read_network
    from exporter.engine.summary import lines_of_engine, profile_table

    manifest, out = written.manifest, console()
    proof = manifest.proof
    assert proof is not None
    size = (written.folder / manifest.artifact.file).stat().st_size
    out.print(f"{manifest.name} version {manifest.version}: {size:,} bytes", markup=False)
    for line in lines_of_engine(manifest, read_network(written.folder / FILE_NAME)):
        out.print(line, markup=False, soft_wrap=True)
    out.print(profile_table(manifest))
    if proof.judgements:
        out.print(judgement_table(proof.judgements))
    for warning in proof.warnings:
        out.print(f"warning: {warning}", markup=False, soft_wrap=True)
    if proof.reason:
        out.print(f"proof {proof.verdict}: {proof.reason}", markup=False, soft_wrap=True)
    out.print(f"{proof.verdict}: {written.folder}", markup=False, soft_wrap=True)
