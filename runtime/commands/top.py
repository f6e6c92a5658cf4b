"""``twinport top``: watch what the models of a server do, from its metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click
from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runtime.commands.ranges import Within
from runtime.errors import TwinportError
from runtime.tables import console, fitted
from runtime.watch.scrape import Look, Row, look_at, metrics_url, row_to_dict, rows_between

DEFAULT_URL = "127.0.0.1:8002"


@click.command()
@click.option("--url", default=DEFAULT_URL, show_default=True,
              help="HOST:PORT of the metrics, or their whole address.")  # fmt: skip
@click.option("--interval", type=Within(0.1, 3600), default=2.0, show_default=True,
              help="Seconds between two looks.")  # fmt: skip
@click.option("--once", is_flag=True, help="Look twice, one interval apart, print and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a look.")
def top(url: str, interval: float, once: bool, as_json: bool) -> None:
    """Show what each model of a server does, until Ctrl-C.

    Rates, mean batch, queue and compute times are those between two looks; percentiles are
    read off histograms, so they are as fine as their bounds.
    """
    whole = metrics_url(url)
    first = look_at(whole)
    if once or as_json:
        _print(whole, first, interval, once=once, as_json=as_json)
        return
    before: Look | None = first
    out = console()
    with Live(fitted(table_of(rows_between(None, first)), out), console=out) as live:
        while True:
            time.sleep(interval)
            before = _looked_again(whole, before, live)


def _looked_again(url: str, before: Look | None, live: Live) -> Look | None:
    """Show the next look; a server that is away for a while may come back."""
    try:
        now = look_at(url)
    except TwinportError as error:
        live.update(Text(str(error), style="red"), refresh=True)
        return None
    live.update(fitted(table_of(rows_between(before, now)), live.console), refresh=True)
    return now


def _print(url: str, first: Look, interval: float, *, once: bool, as_json: bool) -> None:
    before: Look | None = first
    while True:
        time.sleep(interval)
        try:
            now = look_at(url)
        except TwinportError as error:
            if once:
                raise
            click.echo(f"twinport: {error}", err=True)
            before = None
            continue
        rows = rows_between(before, now)
        if as_json:
            click.echo(json.dumps({"models": [row_to_dict(row) for row in rows]}))
        else:
            out = console()
            out.print(fitted(table_of(rows), out))
        if once:
            return
        before = now


def table_of(rows: Sequence[Row]) -> Table:
    """One row a version."""
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption="batch: mean rows of a call; queue and compute: p50/p99 in milliseconds",
        caption_justify="left",
    )
    table.add_column("model", overflow="fold", min_width=8)
    table.add_column("ready", no_wrap=True)
    for heading in ("req/s", "rows/s", "batch", "wait", "queue", "compute", "failed"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            Text("".join(c if c.isprintable() else "?" for c in f"{row.model}/{row.version}")),
            Text("yes", style="green") if row.ready else Text("no", style="red"),
            _rate(row.requests_per_second),
            _rate(row.rows_per_second),
            "-" if row.mean_batch is None else f"{row.mean_batch:.1f}",
            str(row.waiting),
            "/".join(map(_ms, row.queue_ms)),
            "/".join(map(_ms, row.compute_ms)),
            _failures(row),
        )
    return table


def _rate(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _failures(row: Row) -> Text:
    text = f"{row.failures:,}"
    if row.failures_per_second:
        text += f" (+{row.failures_per_second:.1f}/s)"
    return Text(text, style="red" if row.failures_per_second else "")
