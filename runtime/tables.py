"""How judgements look on a terminal; every number beside the tolerance it is held to."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runtime.manifest import Judgement

PLAIN_WIDTH = 120
"""Columns where no terminal says how many it has: a file, a pipe."""

_STYLES = {"passed": "green", "failed": "bold red", "vacuous": "bold yellow"}


def console(file: TextIO | None = None) -> Console:
    """A console that does not fold tables to 80 columns in a file or a pipe."""
    stream = file or sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def judgement_table(judgements: Iterable[Judgement]) -> Table:
    """One row for each output and kind of input.

    The first two errors are in units of PyTorch's own float32 error, the relative one is
    in units of the truth. ``max`` is the tolerance; a number without one is shown and not
    judged.
    """
    table = Table(
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        caption="errors in units of PyTorch's own float32 error, relative RMS of the truth's size",
        caption_justify="left",
    )
    for heading in ("output", "inputs"):
        table.add_column(heading, overflow="fold")
    for heading in ("samples", "RMS error", "largest error", "relative RMS"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for item in judgements:
        table.add_row(
            Text(item.output),
            Text(item.kind),
            str(item.samples),
            _rms(item),
            _with_limit(_factor(item.max_factor, item.max_scale), item.max_limit),
            _relative(item),
            Text(item.verdict, style=_STYLES[item.verdict]),
        )
    return table


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
