"""``twinport bench``: measure how fast a served model answers."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.bench.inputs import Requests, requests_for
from runtime.bench.load import Plan, measure
from runtime.bench.load import Progress as Told
from runtime.bench.result import Level, table_of
from runtime.client import Client
from runtime.client_wire import Connection
from runtime.commands.connecting import connecting
from runtime.errors import BackendUnavailable
from runtime.tables import console, fitted

_SHOWN: dict[str, Any] = {"show_default": True}


def _numbers(_ctx: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """``1,8,32``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"'{text}' is no list of whole numbers such as 1,8,32") from None


def _axes(_ctx: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> dict[str, int]:
    """``NAME=SIZE`` each."""
    axes = {}
    for text in texts:
        name, _, size = text.partition("=")
        if not (name and size.isdecimal() and int(size)):
            raise click.BadParameter(f"'{text}' is not NAME=SIZE with a size above 0")
        axes[name] = int(size)
    return axes


@click.command()
@click.argument("model")
@connecting
@click.option("--version", type=click.IntRange(min=1), help="The server's choice by default.")
@click.option("--concurrency", callback=_numbers, default="1,8,32", metavar="N,N,…",
              help="Requests in flight, a level each.", **_SHOWN)  # fmt: skip
@click.option("--rows", type=click.IntRange(min=1),
              help="Rows of one request.  [default: 1, or those of the file]")  # fmt: skip
@click.option("--seconds", default=5.0, help="Of each level.", **_SHOWN)
@click.option("--requests", type=int, help="Of each level, instead of a time.")
@click.option("--warm-up", default=1.0, help="Seconds before each level, not counted.", **_SHOWN)
@click.option("--connections", default=1, help="Requests are spread over them.", **_SHOWN)
@click.option("--timeout", "timeout_s", default=60.0, help="Seconds for a request.", **_SHOWN)
@click.option("--input", "file", type=click.Path(path_type=Path),
              help="Send this .npy, .npz, .json or picture; else inputs are drawn.")  # fmt: skip
@click.option("--axis", "axes", callback=_axes, multiple=True, metavar="NAME=SIZE",
              help="Size of a free axis of drawn inputs; 1 by default.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw latencies to this file.")
def bench(
    model: str,
    connection: Connection,
    version: int | None,
    concurrency: tuple[int, ...],
    rows: int | None,
    file: Path | None,
    axes: dict[str, int],
    as_json: bool,
    plot: Path | None,
    warm_up: float,
    **limits: Any,
) -> None:
    """Send requests to MODEL and print percentiles, throughput and errors.

    At each level so many requests are in flight all the time: one that is answered makes
    room for the next. Where server and load generator run on one machine they share its
    processors, and the generator is one process: what it can send is a limit, too. Where a
    level fails, or after Ctrl-C, those that were finished are shown all the same. Requests
    that fail are counted; the exit code is 1 where none of a level is answered, or where the
    server is gone at the end of one.
    """
    draw = _plotter(plot)
    chosen = "" if version is None else str(version)
    plan = Plan(connection, concurrency, warm_up_seconds=warm_up, **limits)
    with Client(
        connection.url, timeout_s=plan.timeout_s, tls=connection.tls, token=connection.token
    ) as client:
        served = client.model_metadata(model, chosen)
    sent = requests_for(served, rows=rows, file=file, axes=axes, version=chosen)
    plan = replace(plan, rows=sent.rows)
    levels: list[Level] = []
    complete = False
    try:
        with _progress(plan) as tell:
            _loop_runner()(measure(plan, sent.payloads, tell, levels.append))
        complete = True
    finally:
        if levels:
            if as_json:
                click.echo(json.dumps(_record(model, plan, sent, levels, complete=complete)))
            else:
                out = console()
                out.print(fitted(table_of(levels), out))
            draw(levels, f"{model} at {connection.url}, {_rows_text(plan.rows)} a request")


def _loop_runner() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Uvloop's where it is installed: the generator is not to be what is measured."""
    if find_spec("uvloop") is None:
        return asyncio.run
    import uvloop

    return uvloop.run


def _rows_text(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows} rows"


def _plotter(plot: Path | None) -> Any:
    """What draws; where Matplotlib is missing, it is said before anything is measured."""
    if plot is None:
        return lambda levels, title: None
    try:
        from runtime.bench.plot import check_plot_file, latency_figure, write_plot
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise BackendUnavailable("--plot needs matplotlib; pip install 'twinport[plot]'") from error
    check_plot_file(plot)
    return lambda levels, title: write_plot(plot, latency_figure(levels, title))


@contextmanager
def _progress(plan: Plan) -> Iterator[Told]:
    """A bar on a terminal, a line a level elsewhere; on stderr."""
    if not sys.stderr.isatty():
        yield _plain
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console(sys.stderr)) as bar:
        tasks = {
            each: bar.add_task(f"{each} in flight", total=1.0, done="") for each in plan.in_flight
        }
        yield lambda each, share, done: bar.update(
            tasks[each], completed=share, done=f"{done:,} requests"
        )


def _plain(in_flight: int, share: float, done: int) -> None:
    if share == 1.0 and done:
        click.echo(f"{in_flight} in flight: {done} requests", err=True)


def _record(
    model: str, plan: Plan, sent: Requests, levels: list[Level], *, complete: bool
) -> dict[str, Any]:
    return {
        "model": model,
        "url": plan.connection.url,
        "rows": plan.rows,
        "request_bytes": len(sent.payloads[0]),
        "connections": plan.connections,
        "client": {
            "python": platform.python_version(),
            "grpcio": version_of("grpcio"),
            "cpus": os.cpu_count(),
        },
        "complete": complete,
        "levels": [level.to_dict() for level in levels],
    }
