"""What ``placement.py`` found as tables for the documentation, held against what was aimed at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

PUBLISHED = {
    ("Zipf(1)", 32): (1.005, 2.39),
    ("Zipf(1)", 64): (1.024, 2.59),
    ("log-normal(1)", 32): (1.005, 1.37),
}
"""Max/mean of the published program, global and with 8 groups on 8 nodes."""

Record = Mapping[str, Any]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _pairs(record: Record) -> list[tuple[str, str, list[dict[str, float]]]]:
    """Devices, what a window keeps, and the traces of each pair that was run."""
    found = []
    for name, traces in record.items():
        if name.startswith("drift-"):
            _, devices, keeps = name.split("-")
            found.append((devices, keeps, traces))
    return sorted(found, key=lambda each: (int(each[0]), -float(each[1])))


def in_sample(record: Record) -> str:
    """Our EPLB beside the published one, and ours, on the load that was placed for."""
    rows = []
    for row in record.get("published", []):
        flat, grouped = PUBLISHED[row["load"], row["devices"]]
        rows.append([
            f"{row['load']}, {row['slots']} / {row['devices']}", f"{row['none']:.2f}",
            f"{row['global']:.3f} ({flat:.3f})", f"{row['hierarchical']:.2f} ({grouped:.2f})",
            str(row["wasted"]), f"{row['ours']:.6f}", f"{row['third']:.3f}",
        ])  # fmt: skip
    head = ("load, slots / devices", "none", "`eplb` (published)", "8 nodes (published)",
            "slots wasted", "`ours`", "`ours`, a third of the spare slots")  # fmt: skip
    return _table(head, rows)


def next_window(record: Record) -> str:
    """Excess on the next window of both policies, with both kinds of shares."""
    rows = []
    for devices, keeps, traces in _pairs(record):
        mean = {key: fmean(each[key] for each in traces) for key in traces[0]}
        rows.append([
            devices, keeps, str(len(traces)), f"{mean['eplb planned']:.3f}",
            f"{mean['eplb predicted planned']:.3f}", f"{mean['ours planned']:.3f}",
            f"{mean['floor']:.3f}", f"{mean['eplb live']:.3f}", f"{mean['ours live']:.3f}",
            f"{mean['eplb moved']:,.0f}", f"{mean['ours moved']:,.0f}",
        ])  # fmt: skip
    head = ("devices", "keeps", "traces", "`eplb`", "`eplb`, our forecast", "`ours`",
            "floor", "`eplb`, live", "`ours`, live", "moved by `eplb`", "by `ours`")  # fmt: skip
    return _table(head, rows)


def targets(record: Record) -> str:
    """What was aimed at, by pair: median and worst of the traces, with a verdict."""
    rows = []
    for devices, keeps, traces in _pairs(record):
        cells = [devices, keeps]
        for ours, theirs, limits in (
            ("ours planned", "eplb planned", (0.6, 0.85)),
            ("ours live", "eplb planned", (0.6, 0.85)),
            ("ours live", "eplb live", (None, None)),
            ("third live", "eplb planned", (1.0, None)),
            ("ours moved", "eplb moved", (0.03, None)),
        ):
            ratios = [each[ours] / each[theirs] for each in traces]
            cells.append(_judged(median(ratios), max(ratios), *limits))
        rows.append(cells)
    head = ("devices", "keeps", "planned shares (0.6; 0.85)", "live shares (0.6; 0.85)",
            "live, beside `eplb` live", "a third of the spare slots, live (1)",
            "transfers (0.03)")  # fmt: skip
    return _table(head, rows)


def _judged(middle: float, worst: float, limit: float | None, most: float | None) -> str:
    """``0.45; 0.52 ✓``: median, worst, and whether both keep to their limits."""
    text = f"{middle:.3g}; {worst:.3g}"
    if limit is None:
        return text
    return f"{text} {'✓' if middle <= limit and (most is None or worst <= most) else '✗'}"


def balance(record: Record) -> str:
    """Balance of devices on the next window, where it is 0.45 without placement."""
    rows = []
    for name, traces in record.get("balance", {}).items():
        devices, keeps = name.split("-")
        mean = {key: fmean(each[key] for each in traces) for key in traces[0]}
        rows.append([
            devices, keeps, f"{mean['none balance']:.2f}", f"{mean['eplb balance']:.3f}",
            f"{mean['ours balance']:.3f}", f"{mean['eplb live balance']:.3f}",
            f"{mean['ours live balance']:.3f}",
            "✓" if mean["ours live balance"] >= 0.9 else "✗",
        ])  # fmt: skip
    head = ("devices", "keeps", "none", "`eplb`", "`ours`", "`eplb`, live", "`ours`, live", "0.9")
    return _table(head, rows)


def topics(record: Record) -> str:
    """Jumps of topic at the published Gini coefficients."""
    rows = []
    for gini, found in record.get("topics", {}).items():
        traces = found["traces"]
        mean = {key: fmean(each[key] for each in traces) for key in traces[0]}
        rows.append([
            gini, f"{found['measured']:.3f}", f"{mean['eplb planned']:.3f}",
            f"{mean['ours planned']:.3f}", f"{mean['eplb live']:.3f}", f"{mean['ours live']:.3f}",
            f"{mean['ours moved'] / mean['eplb moved']:.1%}",
        ])  # fmt: skip
    head = ("Gini", "measured", "`eplb`", "`ours`", "`eplb`, live", "`ours`, live", "transfers")
    return _table(head, rows)


def frontier(record: Record) -> str:
    """What replicas and moves buy, in units of EPLB's excess."""
    rows = [
        [str(row["devices"]),
         f"{row['slots']} slots, anew each window" if row["kind"] == "redundancy"
         else f"{row['slots']} slots, {row['part']:.1%} moved",
         f"{row['planned']:.2f}", f"{row['live']:.2f}"]
        for row in record.get("frontier", [])
    ]  # fmt: skip
    return _table(("devices", "`ours` with", "planned / `eplb`", "live / `eplb`"), rows)


def nodes(record: Record) -> str:
    """Levels against the load that leaves its home node."""
    rows = [
        [str(row["nodes"]), row["policy"], f"{row['max_over_mean']:.3f}", f"{row['away']:.1%}"]
        for row in record.get("nodes", [])
    ]
    return _table(("nodes", "policy", "max/mean", "off home"), rows)


def times(record: Record) -> str:
    """Milliseconds a plan."""
    names = ("ours", "anew", "eplb", "published", "reshare")
    rows = [
        [f"{row['slots']} / {row['devices']}"]
        + [f"{row[name]:,.0f}" if name in row else "-" for name in names]
        + [f"{row['ours'] / row['eplb']:.2f}",
           f"{row['ours'] / row['published']:.3f}" if "published" in row else "-"]
        for row in record.get("time", {}).get("rows", [])
    ]  # fmt: skip
    head = ("slots / devices", "`ours`, moves", "`ours`, anew", "`eplb`", "published program",
            "shares alone", "`ours` / `eplb`", "`ours` / published")  # fmt: skip
    return _table(head, rows)


TABLES: Mapping[str, Callable[[Record], str]] = {
    "in-sample": in_sample,
    "next-window": next_window,
    "targets": targets,
    "balance": balance,
    "topics": topics,
    "frontier": frontier,
    "nodes": nodes,
    "times": times,
}
