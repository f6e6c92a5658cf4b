"""``twinport experts stats``: how the experts of served models were called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.table import Table

from runtime.commands.plotting import plotting
from runtime.commands.top import DEFAULT_URL
from runtime.errors import UsageProblem
from runtime.tables import console
from runtime.watch.experts import ModelLoad, loads_from_samples
from runtime.watch.scrape import metrics_url, samples_at


@click.command("stats")
@click.option("--url", default=DEFAULT_URL, show_default=True,
              help="HOST:PORT of the metrics, or their whole address.")  # fmt: skip
@click.option("--model", help="NAME or NAME/VERSION.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw a heat map of one version.")
def stats_command(url: str, model: str | None, as_json: bool, png: Path | None) -> None:
    """Show how the experts of served models were called, layer by layer.

    Tables and picture are of the sliding window, which outlives a restart of the server; JSON
    has every expert's tokens since its start, too.
    """
    draw = plotting(png, "--png", "load_figure")
    loads = loads_from_samples(samples_at(metrics_url(url)), model)
    if png is not None and len(loads) > 1:
        names = ", ".join(f"{load.model}/{load.version}" for load in loads)
        raise UsageProblem(f"--png draws one version; there are {names}: name one with --model")
    if as_json:
        click.echo(json.dumps({"models": [load.to_dict() for load in loads]}))
    else:
        for load in loads:
            console().print(table_of(load))
    draw(loads[0])


def table_of(load: ModelLoad) -> Table:
    """One row a layer."""
    dropped = load.requests.get("dropped", 0)
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left",
        caption=f"{load.model}/{load.version}: the last {load.window_requests:,} requests counted, "
        f"{load.share:.0%} of calls" + (f"; {dropped:,} requests not counted" if dropped else ""),
    )  # fmt: skip
    for heading in ("layer", "tokens", "busiest", "its part", "least", "its part", "unused",
                    "balance", "max/mean"):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for each, row in zip(load.layers(), load.window.tolist(), strict=True):
        scores = each.balance, each.max_over_mean
        table.add_row(
            str(each.layer), f"{each.tokens:,}",
            *_expert(row, each.busiest), *_expert(row, each.least), str(each.unused),
            *("-" if score is None else f"{score:.3f}" for score in scores),
        )  # fmt: skip
    return table


def _expert(row: Sequence[int], expert: int) -> tuple[str, str]:
    total = sum(row)
    return (str(expert), f"{row[expert] / total:.1%}") if total else ("-", "-")
