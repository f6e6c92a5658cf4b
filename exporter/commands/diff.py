"""``twinport diff``: what two versions or artifacts have in common and what they have not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from exporter.diff.compare import compare
from exporter.diff.record import Difference, NodeChanges, WeightChanges
from runtime.tables import console

SHOWN = 12
"""Lines of a kind on the terminal; --json has all."""


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--no-speed", is_flag=True, help="Time neither of them.")
@click.option("--exit-code", is_flag=True, help="Exit 1 where the models differ.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def diff(
    context: click.Context,
    first: Path,
    second: Path,
    no_speed: bool,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Compare two versions or artifacts: nodes, shapes, weights, numbers, speed.

    A and B are .onnx files, folders of versions, or REPOSITORY/NAME, whose highest version
    is taken. Both run on the evidence of one of them, or on drawn inputs where there is
    none. Of an engine that cannot run here, what its manifest says is compared.
    """
    found = compare(first, second, speed=not no_speed)
    if as_json:
        click.echo(json.dumps(_record(found), indent=2))
    else:
        _show(found)
    if exit_code and found.differs:
        context.exit(1)


def _record(found: Difference) -> dict[str, object]:
    speed = None if found.speed is None else {
        **dataclasses.asdict(found.speed), "ratio": found.speed.ratio
    }  # fmt: skip
    return {**dataclasses.asdict(found), "speed": speed, "differs": found.differs}


def _show(found: Difference) -> None:
    out = console()
    out.print(f"A {found.a}", markup=False, soft_wrap=True)
    out.print(f"B {found.b}", markup=False, soft_wrap=True)
    if found.same_file:
        out.print("the two files are the same, byte for byte")
    facts = (*found.facts, *found.shapes)
    if facts:
        table = _table("", "A", "B")
        for fact in facts[: 2 * SHOWN]:
            table.add_row(Text(fact.what), Text(fact.a), Text(fact.b))
        out.print(table)
    for line in _lines(found):
        out.print(line, markup=False, soft_wrap=True)
    _show_weights(found.weights)
    _show_numbers(found)
    for line in found.left_out:
        out.print(f"not compared: {line}", markup=False, soft_wrap=True)


def _lines(found: Difference) -> list[str]:
    lines = [f"{kind} nodes: {a} and {b}" for kind, (a, b) in found.operators.items()]
    lines += [_nodes_line(item) for item in found.nodes[:SHOWN]]
    if len(found.nodes) > SHOWN:
        lines.append(f"nodes of {len(found.nodes) - SHOWN} more modules differ")
    if not found.nodes and not any("nodes" in line for line in found.left_out):
        lines.append("nodes: the same")
    if len(found.shapes) + len(found.facts) > 2 * SHOWN:
        lines.append(f"{len(found.shapes) + len(found.facts) - 2 * SHOWN} more shapes differ")
    return lines


def _nodes_line(item: NodeChanges) -> str:
    kinds = (("added", item.added), ("removed", item.removed), ("changed", item.changed))
    parts = []
    for what, names in kinds:
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{what} {', '.join(names[:3])}{more}")
    return f"nodes of {item.module or 'the root'}: {'; '.join(parts)}"


def _show_weights(weights: tuple[WeightChanges, ...]) -> None:
    if not weights:
        return
    out = console()
    changed = [item for item in weights if not item.same]
    if changed:
        table = _table("weights of", "equal", "relative RMS", "largest", "added", "removed")
        for item in changed[: 2 * SHOWN]:
            table.add_row(
                Text(item.module or "the root"), f"{item.equal} of {item.tensors}",
                f"{item.relative_rms:.2e}", f"{item.largest:.2e}",
                str(len(item.added) or "-"), str(len(item.removed) or "-"),
            )  # fmt: skip
        out.print(table)
    out.print(
        f"weights: those of {len(weights) - len(changed)} of {len(weights)} modules are the same"
    )


def _show_numbers(found: Difference) -> None:
    out = console()
    if found.numbers:
        table = _table("output", "relative RMS", "largest", "elements that differ", "labels")
        for item in found.numbers:
            labels = "-" if item.labels is None else f"{item.labels:.2%} agree"
            row = (f"{item.relative_rms:.2e}", f"{item.largest:.2e}", f"{item.differing:.2%}")
            table.add_row(Text(item.output), *((item.note, "", "") if item.note else row), labels)
        out.print(table)
        out.print(f"on {found.inputs}", markup=False)
    if found.speed:
        speed = found.speed
        out.print(
            f"speed: {speed.a_ms:.3g} ms and {speed.b_ms:.3g} ms a call, ratio "
            f"{speed.ratio:.2f} (median of {speed.calls} in turns, {speed.shapes})",
            markup=False,
        )


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", overflow="fold")
    return table
