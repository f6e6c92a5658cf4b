"""How judgements look on a terminal; every number beside the tolerance it is held to."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from runtime.proof_records import Judgement

PLAIN_WIDTH = 120
"""Columns where no terminal says how many it has: a file, a pipe."""

_UNBOUNDED = 10_000
_GAP = "  "
"""Between two values, and before those that do not begin a row."""

_STYLES = {"passed": "green", "failed": "bold red", "vacuous": "bold yellow"}


def console(file: TextIO | None = None) -> Console:
    """A console that does not fold tables to 80 columns in a file or a pipe."""
    stream = file or sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def fitted(table: Table, out: Console) -> RenderableType:
    """The table where it fits the console whole; else a paragraph for each row, cut nowhere."""
    unbounded = out.options.update_width(_UNBOUNDED)
    if Measurement.get(out, unbounded, table).maximum <= out.width:
        return table
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    headings = [str(column.header) for column in table.columns]
    shown: list[Text] = []
    for row in rows:
        cells = [cell if isinstance(cell, Text) else Text(str(cell)) for cell in row]
        shown += _paragraph(list(zip(headings, cells, strict=True)), out.width)
    if table.caption is not None:
        shown.append(Text(str(table.caption), style="dim italic"))
    return Group(*shown)


def _paragraph(pairs: list[tuple[str, Text]], width: int) -> list[Text]:
    """Heading and value of each pair, as many to a line as fit; the first at its beginning."""
    lines: list[Text] = []
    for heading, value in pairs:
        pair = Text.assemble((f"{heading} ", "dim"), value)
        if lines and lines[-1].cell_len + len(_GAP) + pair.cell_len <= width:
            lines[-1] = Text.assemble(lines[-1], _GAP, pair)
        else:
            lines.append(Text.assemble(_GAP, pair) if lines else pair)
    return lines


def judgement_table(judgements: Iterable[Judgement]) -> Table:
    """One row for each output and kind of input.

    The first two errors are in units of PyTorch's own float32 error, the relative one is
    in units of the truth. ``max`` is the tolerance; a number without one is shown and not
    judged.
    """
    items = list(judgements)
    # Only a precision below fp32 is judged by its noise.
    noise = any(item.snr_db is not None or item.snr_limit_db is not None for item in items)
    table = Table(
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        caption="errors in units of PyTorch's own float32 error, relative RMS of the truth's size",
        caption_justify="left",
    )
    for heading in ("output", "inputs"):
        table.add_column(heading, overflow="fold")
    headings = ("samples", "RMS error", "largest error", "relative RMS")
    for heading in (*headings, "signal-to-noise") if noise else headings:
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for item in items:
        table.add_row(
            Text(item.output),
            Text(item.kind),
            str(item.samples),
            _rms(item),
            _with_limit(_factor(item.max_factor, item.max_scale), item.max_limit),
            _relative(item),
            *((signal_to_noise(item),) if noise else ()),
            Text(item.verdict, style=_STYLES[item.verdict]),
        )
    return table


def signal_to_noise(item: Judgement) -> str:
    """``63.2 dB (min 50)``; a dash where there is none to be measured."""
    if item.rms_scale is None:
        return "-"
    if item.snr_db is not None:
        text = f"{item.snr_db:.1f} dB"
    else:
        text = "no noise" if item.rms_error == 0 else "no signal"
    return text if item.snr_limit_db is None else f"{text} (min {item.snr_limit_db:g})"


def _rms(item: Judgement) -> str:
    if item.rms_scale is None:
        differing = 0.0 if item.rms_error is None else item.rms_error
        return f"{differing:.3%} differ (max 0)"
    return _with_limit(_factor(item.rms_factor, item.rms_scale), item.rms_limit)


def _relative(item: Judgement) -> str:
    if item.rms_scale is None:
        return "-"
    text = "-" if item.relative_rms is None else f"{item.relative_rms:.1e}"
    return text if item.relative_limit is None else f"{text} (max {item.relative_limit:.0e})"


def _factor(factor: float | None, scale: float | None) -> str:
    if scale is None:
        return "-"
    return "infinite" if factor is None else f"{factor:.3g}"


def _with_limit(text: str, limit: float | None) -> str:
    return text if limit is None else f"{text} (max {limit:g})"
