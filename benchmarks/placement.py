"""How even the next window is under a placement, beside EPLB: quality, transfers, time.

    python benchmarks/placement.py PART ... [--traces N] [--published eplb.py]

At 58 layers of 256 experts, 32 and 64 devices. Traces are drawn by seed; a policy sees the
windows before the one it is scored on. Parts: ``drift-32-0.97`` and its like (``--parts`` lists
them), ``balance``, ``frontier``, ``nodes``, ``published``, ``time``. Each writes its own entry of
``benchmarks/results/placement.json``, so that they can be run one by one, and all tables of
``docs/experts.md`` anew. ``time`` should run alone on the machine; with ``--published`` it also
times the published program, a file that is not part of this project.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from marks import put_between
from placement_tables import TABLES

from runtime.experts.devices import equal_devices
from runtime.experts.eplb import place_eplb, replicate
from runtime.experts.placement import Placement
from runtime.experts.plan import plan, reshare
from runtime.experts.policies import POLICIES, Setting
from runtime.experts.predict import forecast
from runtime.experts.replay import balance_of, levels
from runtime.experts.simple import place_once
from runtime.experts.terms import Terms
from runtime.experts.traces import drifting, gini_of, jumping, zipf_popularity

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "placement.json"
DOCUMENT = ROOT / "docs" / "experts.md"
FORM = (58, 256)
SLOTS = {32: 288, 64: 320}
KEEPS = (0.99, 0.97, 0.95)
HISTORY, SETTLE, SCORED = 3, 3, 6
"""Windows before the first placement, windows in which moves settle, windows that count."""
MOVES_PART = 0.029
"""Bound on moves, of the replicas that a placement made anew brings to other devices."""
SEED = 20261128


def main() -> int:
    """Run the parts that are asked for, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="which; all by default")
    parser.add_argument("--parts", action="store_true", dest="listed", help="list them and end")
    parser.add_argument("--traces", type=int, default=30, help="for each pair")
    parser.add_argument("--published", type=Path, help="the published program, for its time")
    options = parser.parse_args()
    parts = all_parts(options.traces, options.published)
    if options.listed:
        print("\n".join(parts))
        return 0
    for name in options.parts or parts:
        if name not in parts:
            parser.error(f"there is no part '{name}'; --parts lists them")
        store(name, parts[name]())
    record = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = DOCUMENT.read_text(encoding="utf-8")
    for mark, table in TABLES.items():
        content = table(record)
        print(content)
        text = put_between(text, mark, content)
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


def all_parts(traces: int, published: Path | None) -> dict[str, Callable[[], Any]]:
    """Every part by its name."""
    parts: dict[str, Callable[[], Any]] = {"published": published_table}
    for devices in SLOTS:
        for keeps in KEEPS:
            parts[f"drift-{devices}-{keeps}"] = lambda d=devices, k=keeps: drift(d, k, traces)
    parts |= {
        "balance": lambda: balance(max(2, traces // 3)),
        "topics": lambda: topics(max(2, traces // 6)),
        "frontier": lambda: frontier(max(1, traces // 10)),
        "nodes": nodes,
        "time": lambda: times(published),
    }
    return parts


def store(name: str, entry: Any) -> None:
    """Put one part into the record; parts may run side by side."""
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _put(name, entry)
    RESULTS.with_suffix(".lock").unlink(missing_ok=True)


def _put(name: str, entry: Any) -> None:
    record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    record[name] = entry
    RESULTS.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def seeds(count: int, *about: Any) -> list[int]:
    """As many seeds, other ones for every part."""
    words = [ord(letter) for letter in json.dumps(about)]
    return [int(each) for each in np.random.SeedSequence([SEED, *words]).generate_state(count)]


def excess(placement: Placement, counts: Any, setting: Setting) -> float:
    """Max/mean less 1, mean over layers."""
    return balance_of(levels(placement, counts, setting))[1] - 1


def drift(devices: int, keeps: float, traces: int) -> list[dict[str, Any]]:
    """All policies on traces of one drift, at equal and at a third of the redundancy."""
    return [
        one_trace(drifting(seed, HISTORY + SETTLE + SCORED, FORM, keeps=keeps).counts, devices)
        for seed in seeds(traces, "drift", devices, keeps)
    ]


def one_trace(counts: Any, devices: int) -> dict[str, Any]:
    """Mean excess over the scored windows by policy, and transfers."""
    slots = SLOTS[devices]
    third = FORM[1] + (slots - FORM[1]) // 3
    anew = slots * FORM[0] * (1 - 1 / devices)
    setting = Setting(equal_devices(devices, slots * FORM[0] // devices), slots,
                      moves=int(MOVES_PART * anew))  # fmt: skip
    settings = {
        "eplb": setting,
        "eplb predicted": Setting(setting.devices, slots, predicted=True),
        "ours": setting,
        "third": Setting(setting.devices, third),
    }
    policy = {"eplb": "eplb", "eplb predicted": "eplb", "ours": "ours", "third": "ours"}
    current: dict[str, Placement | None] = dict.fromkeys(settings)
    found: dict[str, list[float]] = {}
    for at in range(HISTORY, len(counts)):
        for name, given in settings.items():
            before = current[name]
            placed = POLICIES[policy[name]](counts[:at], before, given)
            current[name] = placed
            if at < HISTORY + SETTLE:
                continue
            moved = int(placed.new_since(before).sum()) if before else 0
            live = reshare(placed, counts[at], given.devices)
            for key, value in (("planned", excess(placed, counts[at], given)),
                               ("live", excess(live, counts[at], given)),
                               ("moved", moved)):  # fmt: skip
                found.setdefault(f"{name} {key}", []).append(value)
    result = {key: float(np.mean(values)) for key, values in found.items()}
    once = place_once(*FORM, devices)
    result["none balance"] = balance_of(levels(once, counts[-1], setting))[0]
    for name in ("ours", "eplb"):
        placed = current[name]
        assert placed is not None
        result[f"{name} balance"] = balance_of(levels(placed, counts[-1], setting))[0]
        live = reshare(placed, counts[-1], setting.devices)
        result[f"{name} live balance"] = balance_of(levels(live, counts[-1], setting))[0]
    result["floor"] = floor(counts, devices)
    return result


def floor(counts: Any, devices: int) -> float:
    """What shares fixed before the window leave at least, if all devices bear equal risk.

    The variance of a device's load is that of its replicas; over all devices it is least
    with the copies that the greedy rule gives. The expected highest of so many independent
    normal variables of that variance, for the spread of the forecast.
    """
    expected = forecast(counts[:-1])
    load = expected.load / expected.load.sum(1, keepdims=True) * devices
    copies = replicate(load, SLOTS[devices])
    variance = (load**2 / copies).sum(1) / devices * (math.exp(expected.spread**2) - 1)
    highest = np.random.default_rng(0).standard_normal((20_000, devices)).max(1).mean()
    return float(np.sqrt(variance).mean() * highest)


def balance(traces: int) -> dict[str, list[dict[str, Any]]]:
    """Traces so skewed that devices have a balance of 0.45 without placement."""
    found = {}
    for devices in SLOTS:
        sigma = sigma_for_balance(devices, 0.45)
        for keeps in KEEPS:
            found[f"{devices}-{keeps}"] = [
                one_trace(
                    drifting(
                        seed, HISTORY + SETTLE + SCORED, FORM, keeps=keeps, sigma=sigma
                    ).counts,
                    devices,
                )
                for seed in seeds(traces, "balance", devices, keeps)
            ]
    return found


def sigma_for_balance(devices: int, wanted: float) -> float:
    """The log-normal spread whose experts, side by side, leave devices with this balance."""
    normal = np.random.default_rng(seeds(1, "sigma", devices)[0]).standard_normal((400, FORM[1]))
    low, high = 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        level = np.exp(middle * normal).reshape(400, devices, -1).sum(2)
        if balance_of(level / level.mean(1, keepdims=True))[0] > wanted:
            low = middle
        else:
            high = middle
    return high


def topics(traces: int) -> dict[str, Any]:
    """Jumps between topics of the published inequality."""
    found = {}
    for gini in (0.105, 0.15, 0.24):
        drawn = [
            jumping(seed, HISTORY + SETTLE + SCORED, FORM, gini=gini)
            for seed in seeds(traces, "topics", gini)
        ]
        found[str(gini)] = {
            "measured": float(np.mean([gini_of(each.counts) for each in drawn])),
            "traces": [one_trace(each.counts, 32) for each in drawn],
        }
    return found


def frontier(traces: int) -> list[dict[str, Any]]:
    """What replicas buy with every plan made anew, and what moves buy at equal redundancy."""
    rows = []
    for devices, slots in SLOTS.items():
        memory = slots * FORM[0] // devices
        anew = slots * FORM[0] * (1 - 1 / devices)
        cases = [
            *(("redundancy", part, FORM[1] + round((slots - FORM[1]) * part), None)
              for part in (1 / 3, 1 / 2, 2 / 3, 1.0)),
            *(("moves", part, slots, int(part * anew)) for part in (0.0, 0.01, 0.029, 0.1)),
        ]  # fmt: skip
        for kind, part, places, moves in cases:
            setting = Setting(equal_devices(devices, memory), places, moves=moves)
            ratios = {"planned": [], "live": []}
            for seed in seeds(traces, "frontier", devices):
                counts = drifting(seed, HISTORY + SETTLE + 3, FORM, keeps=0.97).counts
                for key, value in against_eplb(counts, setting, slots).items():
                    ratios[key].append(value)
            means = {key: float(np.mean(values)) for key, values in ratios.items()}
            case = {"devices": devices, "kind": kind, "part": part, "slots": places,
                    "traces": traces}  # fmt: skip
            rows.append(case | means)
    return rows


def against_eplb(counts: Any, setting: Setting, slots: int) -> dict[str, float]:
    """Our excess over that of EPLB with its planned shares and ``slots``."""
    current, found = None, {"planned": 0.0, "live": 0.0, "eplb": 0.0}
    for at in range(HISTORY, len(counts)):
        current = POLICIES["ours"](counts[:at], current, setting)
        if at >= HISTORY + SETTLE:
            theirs = place_eplb(counts[at - 1], setting.devices.count, slots)
            live = reshare(current, counts[at], setting.devices)
            found["eplb"] += excess(theirs, counts[at], setting)
            found["planned"] += excess(current, counts[at], setting)
            found["live"] += excess(live, counts[at], setting)
    return {key: found[key] / found["eplb"] for key in ("planned", "live")}


def skewed(name: str) -> Any:
    """``[layers, experts]`` a popularity to place on without drift."""
    rng = np.random.default_rng(seeds(1, "skewed", name)[0])
    return zipf_popularity(rng, *FORM) if name == "Zipf(1)" else np.exp(rng.standard_normal(FORM))


def published_table() -> list[dict[str, Any]]:
    """Our EPLB on what was measured of the published program."""
    rows = []
    for name, devices in (("Zipf(1)", 32), ("Zipf(1)", 64), ("log-normal(1)", 32)):
        load, slots = skewed(name), SLOTS[devices]
        setting = Setting(equal_devices(devices, slots * FORM[0]), slots)
        begun = time.perf_counter()
        flat = place_eplb(load, devices, slots)
        seconds = time.perf_counter() - begun
        grouped = place_eplb(load, devices, slots, groups=8, nodes=8)
        ours = plan(load, setting.devices, slots).placement
        few = plan(load, setting.devices, FORM[1] + (slots - FORM[1]) // 3).placement
        rows.append(
            {"load": name, "devices": devices, "slots": slots, "seconds": seconds,
             "wasted": slots * FORM[0] - len(flat.keys)}
            | {key: 1 + excess(each, load, setting)
               for key, each in (("global", flat), ("hierarchical", grouped), ("ours", ours),
                                 ("third", few), ("none", place_once(*FORM, devices)))}
        )  # fmt: skip
    return rows


def nodes() -> list[dict[str, Any]]:
    """Levels and the part of the load off its home node, at some prices."""
    rows = []
    for count in (4, 8):
        load = skewed("log-normal(1)")
        setting = Setting(equal_devices(32, 288 * FORM[0] // 32, count), 288)
        home = np.arange(FORM[1]) * count // FORM[1]
        made = {
            "eplb global": place_eplb(load, 32, 288),
            "eplb hierarchical": place_eplb(load, 32, 288, groups=8, nodes=count),
        } | {
            f"ours, price {price}": plan(
                load, setting.devices, 288, terms=Terms(off_home=price)
            ).placement
            for price in (0.1, 0.3)
        }
        for name, placed in made.items():
            amount = load.reshape(-1)[placed.group] * placed.share
            away = home[placed.expert] != setting.devices.node[placed.device]
            rows.append({"nodes": count, "policy": name, "away": amount[away].sum() / load.sum(),
                         "max_over_mean": 1 + excess(placed, load, setting)})  # fmt: skip
    return rows


def times(published: Path | None) -> dict[str, Any]:
    """Milliseconds a plan, medians, all in turns on the same windows."""
    program = None if published is None else load_program(published)
    rows = []
    for devices, slots in (*SLOTS.items(), (320, 640)):
        counts = drifting(seeds(1, "time")[0], 9, FORM, keeps=0.97).counts
        setting = Setting(equal_devices(devices, slots * FORM[0] // devices), slots,
                          moves=int(MOVES_PART * slots * FORM[0]))  # fmt: skip
        current = POLICIES["ours"](counts[:3], None, setting)
        spent: dict[str, list[float]] = {}
        for at in range(4, len(counts)):
            for name, call in calls_at(counts[: at + 1], current, setting, program).items():
                begun = time.perf_counter()
                result = call()
                spent.setdefault(name, []).append(1000 * (time.perf_counter() - begun))
                current = result if name == "ours" else current
        medians = {name: float(np.median(each)) for name, each in spent.items()}
        rows.append({"devices": devices, "slots": slots} | medians)
    return {"machine": f"{os.cpu_count()} cores, {processor()}", "rows": rows}


def calls_at(
    counts: Any, current: Placement, setting: Setting, program: Callable[..., Any] | None
) -> dict[str, Callable[[], Any]]:
    """What is timed, for the last window."""
    past = counts[:-1]
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: POLICIES["ours"](past, current, setting),
        "anew": lambda: POLICIES["ours"](past, None, setting),
        "eplb": lambda: POLICIES["eplb"](past, None, setting),
        "reshare": lambda: reshare(current, counts[-1], setting.devices),
    }
    if program is not None:
        calls["published"] = lambda: program(past[-1], setting.devices.count, setting.slots)
    return calls


def load_program(path: Path) -> Callable[[Any, int, int], Any]:
    """The published program's global rule, from its file."""
    import torch

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("published_eplb", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda load, devices, slots: module.rebalance_experts(
        torch.from_numpy(load), slots, 1, 1, devices
    )


def processor() -> str:
    """Its name, as Linux gives it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


if __name__ == "__main__":
    raise SystemExit(main())
