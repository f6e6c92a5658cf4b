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
from runtime.experts.load import Pair
from runtime.tables import console
from runtime.watch.experts import ModelLoad, loads_from_samples
from runtime.watch.scrape import metrics_url, samples_at

PAIRS_SHOWN = 3
"""Of a layer, in the table."""


@click.command("stats")
@click.option("--url", default=DEFAULT_URL, show_default=True,
              help="HOST:PORT of the metrics, or their whole address.")  # fmt: skip
@click.option("--model", help="NAME or NAME/VERSION.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--png", type=click.Path(path_type=Path), help="Draw a heat map of one version.")
def stats_command(url: str, model: str | None, as_json: bool, png: Path | None) -> None:
    """Show how the experts of served models were called, layer by layer.

    Tables and picture are of the sliding window, which outlives a restart of the server, but for
    the busiest lately, by tokens that count the less the older they are, and for pairs, which
    are of all requests remembered. JSON has every expert's tokens since the start, too.
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
            if load.pairs is not None:
                console().print(pairs_of(load, load.pairs))
    draw(loads[0])


def table_of(load: ModelLoad) -> Table:
    """One row a layer."""
    dropped = load.requests.get("dropped", 0)
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left",
        caption=f"{load.model}/{load.version}: the last {load.window_requests:,} requests counted, "
        f"{load.share:.0%} of calls" + (f"; {dropped:,} requests not counted" if dropped else ""),
    )  # fmt: skip
    for heading in ("layer", "tokens", "busiest", "lately", "least", "unused", "balance",
                    "max/mean"):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    rows = zip(load.layers(), load.window.tolist(), load.decayed.tolist(), strict=True)
    for each, row, decayed in rows:
        scores = each.balance, each.max_over_mean
        table.add_row(
            str(each.layer), f"{each.tokens:,}",
            _expert(row, each.busiest), _expert(decayed, each.lately), _expert(row, each.least),
            str(each.unused), *("-" if score is None else f"{score:.3f}" for score in scores),
        )  # fmt: skip
    return table


def pairs_of(load: ModelLoad, pairs: Sequence[Sequence[Pair]]) -> Table:
    """One row a layer: the experts that are called together most.

    Args:
        load: Of which version.
        pairs: Its pairs.
    """
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left",
        caption=f"{load.model}/{load.version}: called in the same request, estimated part of all "
        f"{load.remembered:,} remembered",
    )  # fmt: skip
    table.add_column("layer", justify="right", no_wrap=True)
    table.add_column("most often together", no_wrap=True)
    for layer, strongest in enumerate(pairs):
        shown = (
            # An estimate may lie above what is possible.
            f"{one} and {other} ({min(count / load.remembered, 1):.0%})"
            for one, other, count in strongest[: PAIRS_SHOWN if load.remembered else 0]
        )
        table.add_row(str(layer), ", ".join(shown) or "-")
    return table


def _expert(row: Sequence[float], expert: int) -> str:
    total = sum(row)
    return f"{expert} ({row[expert] / total:.1%})" if total else "-"
