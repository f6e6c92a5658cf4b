"""What ``serving.py`` found as tables, and held against what was aimed at."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from marks import put_between

COLUMNS = ("1", "8", "32", "128", "1x64", "4x64", "16x64", "8/8", "32/8", "128/8")

Verdict = tuple[str, bool | None]
"""A target with what was measured; none where it was not."""


def judged(record: Mapping[str, Any]) -> list[Verdict]:
    """Every target, in the order in which they matter."""
    verdicts: list[Verdict] = []
    for level in ("1", "8", "32"):
        verdicts.append(_ratio(record, ("envoy", level), ("triton", level), 1.4))
        verdicts.append(_no_later(record, level))
    for empty in ("empty grpc.aio", "empty grpcio"):
        verdicts.append(_ratio(record, ("grpcio", "32"), (empty, "32"), 0.7))
    verdicts.append(_ratio(record, ("grpcio, 2 workers", "32/8"), ("triton", "32/8"), 1.0))
    verdicts += [_of_limit(record, name) for name in ("envoy", "grpcio")]
    verdicts.append(_below(record, "envoy", "resident_mb", 200, "MB resident"))
    verdicts.append(_below(record, "grpcio", "resident_mb", 150, "MB resident"))
    for name in ("envoy", "grpcio"):
        verdicts.append(_below(record, name, "exit_ms", 250, "ms from SIGTERM to the end"))
        verdicts.append(_below(record, name, "ready_s", 1.5, "s to the first answer"))
    return verdicts


def _values(record: Mapping[str, Any], name: str, case: str, key: str) -> list[float]:
    server = record["servers"].get(name, {})
    return list(server.get("cases", {}).get(case, {}).get(key, []))


def _ratio(
    record: Mapping[str, Any], above: tuple[str, str], below: tuple[str, str], wanted: float
) -> Verdict:
    """Rounds in turn are compared with each other: what slows one slows its neighbour."""
    what = f"{above[0]} at {above[1]} in flight: {{}} of {below[0]}'s requests/s, wanted {wanted:g}"
    first, second = (_values(record, *each, "requests_per_second") for each in (above, below))
    if not first or len(first) != len(second):
        return what.format("not measured"), None
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    found = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return what.format(found), median(ratios) >= wanted


def _no_later(record: Mapping[str, Any], level: str) -> Verdict:
    ours, theirs = (_values(record, name, level, "p99_ms") for name in ("envoy", "triton"))
    if not ours or not theirs:
        return f"envoy at {level} in flight: p99 not measured beside triton's", None
    text = f"envoy at {level} in flight: p99 {median(ours):.2f} ms, triton {median(theirs):.2f}"
    return text, median(ours) <= median(theirs)


def _of_limit(record: Mapping[str, Any], name: str) -> Verdict:
    what = f"{name} with 64 images a request, 4 in flight: {{}} of in-process, wanted 0.8"
    images = _values(record, name, "4x64", "images_per_second")
    limits = record["limit"]["64"]
    if not images or len(images) != len(limits):
        return what.format("not measured"), None
    ratios = [a / b for a, b in zip(images, limits, strict=True)]
    found = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    return what.format(found), median(ratios) >= 0.8


def _below(record: Mapping[str, Any], name: str, key: str, limit: float, unit: str) -> Verdict:
    values = record["servers"].get(name, {}).get(key, [])
    if not values:
        return f"{name}: not measured, {unit}, wanted below {limit:g}", None
    if None in values:
        return f"{name}: did not end by itself", False
    return f"{name}: {median(values):.3g} {unit}, wanted below {limit:g}", median(values) < limit


def tables_from_record(record: Mapping[str, Any]) -> str:
    """Requests, latencies, costs and verdicts as Markdown."""
    versions = ", ".join(f"{name} {of}" for name, of in record["versions"].items())
    limits = ", ".join(f"{median(v):,.0f} at {rows}" for rows, v in record["limit"].items())
    missing = "; ".join(f"{name}: {why}" for name, why in record["not_run"].items())
    lines = [
        f"Median of {record['rounds']} rounds in turns, on {record['machine']}; {versions}",
        "(`benchmarks/serving.py`). A column is requests in flight, `x64` with 64 images each,",
        "`/8` over 8 connections instead of one; h2load sends.",
        "",
        f"In-process, images/s by batch: {limits}.",
        "",
        *_alone(record),
        *_table(record, "requests/s", "requests_per_second", "{:,.0f}"),
        *_table(record, "p99 in ms", "p99_ms", "{:.2f}"),
        *_table(record, "CPU µs a request", "cpu_us_per_request", "{:,.0f}"),
        "| server | ready, s | resident, MB | SIGTERM to end, ms | requests/s by grpcio: 1, 32 |",
        "|---|---|---|---|---|",
    ]
    for name, server in record["servers"].items():
        if name.startswith("bare"):
            continue
        by_grpcio = [
            _cell(_values(record, name, f"{level} grpcio", "requests_per_second"), "{:,.0f}")
            for level in (1, 32)
        ]
        ends = [value for value in server["exit_ms"] if value is not None]
        lines.append(
            f"| {name} | {_cell(server['ready_s'], '{:.2f}')} "
            f"| {_cell(server['resident_mb'], '{:.0f}')} | {_cell(ends, '{:.0f}')} "
            f"| {', '.join(by_grpcio)} |"
        )
    lines += ["", *(_line(text, holds) for text, holds in judged(record))]
    if missing:
        lines += ["", f"Not run: {missing}."]
    return "\n".join(lines)


def _alone(record: Mapping[str, Any]) -> list[str]:
    """What each transport reaches with ONNX Runtime and no service between them."""
    key = "requests_per_second"
    theirs = _values(record, "triton", "1", key)
    found = []
    for name in ("bare grpcio", "bare envoy"):
        if rates := _values(record, name, "1", key):
            text = f"`{name}` {median(rates):,.0f} requests/s"
            if len(theirs) == len(rates):
                ratios = [a / b for a, b in zip(rates, theirs, strict=True)]
                text += f", {median(ratios):.2f} of triton's"
            found.append(text)
    if not found:
        return []
    return [f"The transport and ONNX Runtime alone, 1 in flight: {'; '.join(found)}.", ""]


def _table(record: Mapping[str, Any], title: str, key: str, form: str) -> list[str]:
    lines = [f"| {title} | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name in record["servers"]:
        if name.startswith("bare"):
            continue
        cells = [_cell(_values(record, name, column, key), form) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _cell(values: list[float], form: str) -> str:
    return form.format(median(values)) if values else "-"


def _line(text: str, holds: bool | None) -> str:
    return f"- {'not measured' if holds is None else 'holds' if holds else 'does not hold'}: {text}"


def with_tables(text: str, record: Mapping[str, Any]) -> str:
    """The document with the tables of a record between its marks."""
    return put_between(text, "measured", tables_from_record(record))


def summary_from_record(record: Mapping[str, Any]) -> str:
    """A few columns of it, for the README."""
    columns = ("1", "8", "32", "4x64")
    lines = [
        f"LeNet-5 on {record['machine']}, requests/s (p99 in ms) by requests in flight,",
        f"median of {record['rounds']} rounds in turns ([docs/speed.md](docs/speed.md)):",
        "",
        f"| server | {' | '.join(columns[:3])} | 4 of 64 images | CPU µs at 32 | MB |",
        "|---" * 7 + "|",
    ]
    for name, server in record["servers"].items():
        cells = [
            f"{_cell(_values(record, name, column, 'requests_per_second'), '{:,.0f}')} "
            f"({_cell(_values(record, name, column, 'p99_ms'), '{:.1f}')})"
            for column in columns
        ]
        if name.startswith(("empty", "bare")) or cells[0] == "- (-)":
            continue
        cells.append(_cell(_values(record, name, "32", "cpu_us_per_request"), "{:,.0f}"))
        cells.append(_cell(server["resident_mb"], "{:.0f}"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_summary(text: str, record: Mapping[str, Any]) -> str:
    """The README with the summary of a record between its marks."""
    return put_between(text, "speed", summary_from_record(record))
