"""``twinport experts``: draw traces of expert load, and replay them under policies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from runtime.commands.experts_record import record_command
from runtime.commands.experts_stats import stats_command
from runtime.commands.plotting import plotting
from runtime.commands.ranges import Within
from runtime.errors import PlacementError, UsageProblem
from runtime.experts.devices import MOST_SPEEDS_APART, Devices, equal_devices
from runtime.experts.link_files import read_links
from runtime.experts.link_prices import LEAST_TOKEN_US, MOST_US, TOKEN_US
from runtime.experts.model import StepModel
from runtime.experts.policies import POLICIES, Setting
from runtime.experts.replay import BATCH, Replayed, Reward, Shares, replay
from runtime.experts.terms import MOST_PRICE, Terms
from runtime.experts.trace import (
    MOST_COUNTS,
    Trace,
    check_size,
    check_trace_file,
    read_trace,
    write_trace,
)
from runtime.experts.traces import drifting, gini_of, jumping, still, zipf_popularity
from runtime.tables import console

MOVES_PART = 0.028
"""Of the slots of all layers, new replicas from one window to the next by default: less than
three in a hundred of what a balancer transfers that begins anew. In a small model that is less
than one a layer; then it is one."""

_SHOWN: dict[str, Any] = {"show_default": True}
_PLACES = 50_000_000  # layers times experts times devices: 400 MB for each table of them
_REPLICAS = 1_000_000  # of all layers: some seconds of a policy
_MANY = 10**9
_PRICE = Within(0, MOST_PRICE)


@click.group()
def experts() -> None:
    """Place experts on devices, and see how that would have gone."""


experts.add_command(record_command)
experts.add_command(stats_command)


def _speeds(_ctx: click.Context, _option: click.Parameter, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        speeds = [float(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"'{text}' is no list of numbers such as 1,1,0.5") from None
    wrong = [speed for speed in speeds if not 1 / MOST_SPEEDS_APART <= speed <= MOST_SPEEDS_APART]
    if wrong:
        raise click.BadParameter(
            f"{wrong[0]} is no speed; give {1 / MOST_SPEEDS_APART:g} to {MOST_SPEEDS_APART:g}"
        )
    return speeds


@experts.command("replay")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--policy", "policies", multiple=True, type=click.Choice(list(POLICIES)),
              help="May be repeated.  [default: all]")  # fmt: skip
@click.option("--devices", type=click.IntRange(1, 65_536), default=32, **_SHOWN)
@click.option("--nodes", type=click.IntRange(1, 65_536), default=1, help="Devices divide by them.",
              **_SHOWN)  # fmt: skip
@click.option("--speed", callback=_speeds, metavar="S,S,…", help="Of each device, in proportion.")
@click.option("--slots", type=click.IntRange(1, _MANY),
              help="Of a layer, on all devices.  [default: experts + devices]")  # fmt: skip
@click.option("--memory", type=click.IntRange(1, _MANY),
              help="Replicas a device holds.  [default: its part of all slots]")  # fmt: skip
@click.option("--moves", type=click.IntRange(0, _MANY),
              help="Of `ours` between windows.  [default: 2.8 % of the slots, one a layer at "
              "least]")  # fmt: skip
@click.option("--history", type=click.IntRange(1, _MANY), default=3,
              help="Windows before the first that is scored.", **_SHOWN)  # fmt: skip
@click.option("--shares", type=click.Choice([each.value for each in Shares]), default="planned",
              help="Split tokens by what was planned, or by the window's own counts.",
              **_SHOWN)  # fmt: skip
@click.option("--groups", type=click.IntRange(1, _MANY), default=1,
              help="Of experts that `eplb` keeps on a node.", **_SHOWN)  # fmt: skip
@click.option("--predicted", is_flag=True, help="Let `eplb` place for our forecast.")
@click.option("--off-home", type=_PRICE, default=0.0, help="Price for leaving the home node, in "
              "mean levels.", **_SHOWN)  # fmt: skip
@click.option("--touch", type=_PRICE, default=0.0, help="Price for a device without experts called "
              "together.", **_SHOWN)  # fmt: skip
@click.option("--links", type=click.Path(path_type=Path), help="What a token takes from each "
              "source to each device, in microseconds: .json, .npy or .npz.")  # fmt: skip
@click.option("--token-us", type=Within(LEAST_TOKEN_US, MOST_US), default=TOKEN_US,
              help="One token through one expert, in microseconds.", **_SHOWN)  # fmt: skip
@click.option("--replica-price", type=_PRICE, default=0.0, help="Price of a replica of every "
              "expert.", **_SHOWN)  # fmt: skip
@click.option("--replica-mb", type=Within(0, 1_000_000), default=44.0, help="Weights of one.",
              **_SHOWN)  # fmt: skip
@click.option("--batch", type=click.IntRange(1, _MANY), default=BATCH, help="Tokens for which "
              "touched devices are counted.", **_SHOWN)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw load before and after.")
def replay_command(
    trace: Path, policies: Sequence[str], shares: str, history: int, batch: int,
    as_json: bool, plot: Path | None, **asked: Any,
) -> None:  # fmt: skip
    """Replay TRACE, a file of windows of counts, each scored on a placement made before it.

    All policies see past windows only, and place anew before each. Balance is 1 less the
    standard deviation over the mean of device levels; step times come from a model, not from
    a machine. A batch touches so many devices in a layer, as expected, and so much of the
    companions of a token's expert lies apart from it.
    """
    draw = plotting(plot, "--plot", "replay_figure")
    read = read_trace(trace)
    setting = _setting(read, asked)
    model = StepModel(token_us=asked["token_us"])
    done = [
        replay(
            read, name, setting, shares=Shares(shares), history=history, model=model, batch=batch
        )
        for name in policies or POLICIES
    ]
    if as_json:
        click.echo(json.dumps({"trace": read.name, "policies": [record_of(each) for each in done]}))
    else:
        console().print(table_of(done))
    draw(done)


def _check_form(layers: int, experts: int, devices: int, slots: int) -> None:
    """Refuse what would take minutes, or more memory than there is."""
    if layers * experts * devices > _PLACES:
        raise UsageProblem(
            f"--devices is {devices}; with {layers} layers of {experts} experts give "
            f"{_PLACES // (layers * experts)} at most"
        )
    if slots > experts * devices:
        raise UsageProblem(
            f"--slots is {slots}; a device holds an expert of a layer once, so that {experts} "
            f"experts on {devices} devices use {experts * devices} at most"
        )
    if layers * slots > _REPLICAS:
        raise UsageProblem(
            f"{slots} slots in each of {layers} layers are more than {_REPLICAS:,} replicas; give "
            f"--slots {_REPLICAS // layers} at most, or fewer devices"
        )


def _setting(trace: Trace, asked: dict[str, Any]) -> Setting:
    """What was asked for, with defaults that depend on the trace."""
    _, layers, count = trace.counts.shape
    devices = asked["devices"]
    default = min(-(-(count + devices) // devices), count) * devices
    slots = asked["slots"] or default
    _check_form(layers, count, devices, slots)
    memory = asked["memory"] or -(-slots * layers // devices)
    standing = equal_devices(devices, memory, asked["nodes"])
    if asked["speed"] is not None:
        standing = Devices(np.array(asked["speed"]), standing.memory, standing.node)
    if asked["touch"] and trace.together is None:
        raise UsageProblem("--touch needs a trace that counts which experts are called together")
    terms = Terms(
        asked["off_home"], asked["touch"], asked["replica_price"],
        int(asked["replica_mb"] * 1e6), None, trace.together,
        None if asked["links"] is None else read_links(asked["links"], asked["token_us"]),
    )  # fmt: skip
    moves = asked["moves"]
    return Setting(
        standing, slots, max(int(MOVES_PART * slots * layers), layers) if moves is None else moves,
        asked["groups"], asked["predicted"], terms,
    )  # fmt: skip


def record_of(done: Replayed) -> dict[str, Any]:
    """One policy as plain numbers."""
    return {
        "policy": done.policy,
        "shares": done.shares.value,
        "windows": len(done.windows),
        "balance": done.mean("balance"),
        "max_over_mean": done.mean("max_over_mean"),
        "step_ms_p50": done.step_ms(50),
        "step_ms_p99": done.step_ms(99),
        "link_ms": done.link_ms,
        "utilization": done.utilization,
        "off_home": done.off_home,
        "touched": done.mean("touched"),
        "apart": done.apart,
        "transfers": done.moved,
        "transfer_gb": done.moved * done.replica_bytes / 1e9,
        "reward": done.reward(Reward()),
        "plan_ms": 1000 * done.mean("plan_s"),
    }


def table_of(done: Sequence[Replayed]) -> Table:
    """One row a policy."""
    first = done[0]
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left",
        caption=f"{first.trace}: {len(first.windows)} windows, {first.shares.value} shares; "
        "each scored on a placement made before it",
    )  # fmt: skip
    table.add_column("policy")
    for heading in ("balance", "max/mean", "step p50", "p99 ms", "used", "off home",
                    "touched", "apart", "transfers", "GB", "reward", "plan ms"):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for each in done:
        record = record_of(each)
        table.add_row(
            each.policy,
            f"{record['balance']:.3f}",
            f"{record['max_over_mean']:.3f}",
            f"{record['step_ms_p50']:.2f}",
            f"{record['step_ms_p99']:.2f}",
            f"{record['utilization']:.1%}",
            f"{record['off_home']:.1%}",
            f"{record['touched']:.2f}",
            "-" if record["apart"] is None else f"{record['apart']:.1%}",
            f"{record['transfers']:,}",
            f"{record['transfer_gb']:,.1f}",
            f"{record['reward']:.3f}",
            f"{record['plan_ms']:.1f}",
        )
    return table


@experts.command("trace")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["zipf", "lognormal", "drift", "topics"]),
              default="drift", **_SHOWN)  # fmt: skip
@click.option("--layers", type=click.IntRange(1, MOST_COUNTS), default=58, **_SHOWN)
@click.option("--experts", "count", type=click.IntRange(1, MOST_COUNTS), default=256, **_SHOWN)
@click.option("--windows", type=click.IntRange(2, MOST_COUNTS), default=12, **_SHOWN)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, **_SHOWN)
@click.option("--keeps", type=Within(0, 1), default=0.97, **_SHOWN,
              help="Of drift: what a window keeps of the one before.")  # fmt: skip
@click.option("--gini", type=Within(0, 0.99), default=0.24, **_SHOWN,
              help="Of topics: inequality within one.")  # fmt: skip
def trace_command(
    file: Path, kind: str, layers: int, count: int, windows: int, seed: int, keeps: float,
    gini: float,
) -> None:  # fmt: skip
    """Draw a trace of expert load to FILE (.npz)."""
    check_trace_file(file)
    try:
        check_size(windows, layers, count)
    except PlacementError as error:
        raise UsageProblem(str(error)) from error
    form = (layers, count)
    rng = np.random.default_rng(seed)
    if kind == "drift":
        drawn = drifting(seed, windows, form, keeps=keeps)
    elif kind == "topics":
        drawn = jumping(seed, windows, form, gini=gini)
    elif kind == "zipf":
        drawn = still(seed, windows, zipf_popularity(rng, layers, count), name="Zipf")
    else:
        drawn = still(seed, windows, np.exp(rng.standard_normal(form)), name="log-normal")
    write_trace(file, drawn)
    click.echo(
        f"{file}: {windows} windows, {layers} layers, {count} experts, "
        f"Gini {gini_of(drawn.counts):.3f}"
    )
