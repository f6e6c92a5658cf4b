"""The calibration as Markdown tables, printed and put into the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.proof import MAX_LIMIT, RMS_LIMIT

BEGIN, END = "<!-- begin generated -->", "<!-- end generated -->"

Row = Mapping[str, Any]


def markdown(record: Mapping[str, Any]) -> str:
    """Both tables, with what they were measured on."""
    problems = record["problems"] or ["none"]
    parts = [
        _provenance(record),
        "### Correct models",
        _model_table(record["models"]),
        "### Planted faults",
        _fault_table(record["faults"]),
        "Criteria that do not hold: " + "; ".join(problems) + ".",
    ]
    return "\n\n".join(parts)


def write_document(path: Path, record: Mapping[str, Any]) -> None:
    """Replace what stands between the markers."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    path.write_text(f"{before}{BEGIN}\n\n{markdown(record)}\n\n{END}{after}", encoding="utf-8")


def _provenance(record: Mapping[str, Any]) -> str:
    libraries = ", ".join(f"{name} {number}" for name, number in record["libraries"].items())
    seeds = ", ".join(map(str, record["seeds"]))
    return f"Measured on {record['device']} with {libraries}; seeds {seeds}."


def _model_table(rows: Sequence[Row]) -> str:
    header = (
        "model", "parameters", f"RMS (max {RMS_LIMIT:g})", f"largest (max {MAX_LIMIT:g})",
        "extreme, relative RMS (its limit)", "replay RMS", "replay largest", "proof", "replay",
        "batchable",
    )  # fmt: skip
    body = [
        (
            row["model"], f"{row['parameters']:,}", _number(row["rms_factor"]),
            _number(row["max_factor"]), _extreme(row), _number(row["replay_rms_factor"]),
            _number(row["replay_max_factor"]), row["verdict"], row["replay"],
            "yes" if row["batchable"] else "no",
        )
        for row in rows
    ]  # fmt: skip
    return _table(header, body, "lrrrrrrlll")


def _fault_table(rows: Sequence[Row]) -> str:
    header = ("model", "fault", "size", "measured on", "proof's RMS factor", "proof", "replay")
    body = [
        (
            row["model"], row["fault"], "NaN" if row["size"] is None else _number(row["size"]),
            row["measured_on"], _number(row["rms_factor"]), _found(row),
            "found" if row["replay_found"] else "not found",
        )
        for row in rows
    ]  # fmt: skip
    return _table(header, body, "llrlrll")


def _found(row: Row) -> str:
    if row["found"]:
        return "found"
    return f"not found: {row['blind']}" if row["blind"] else "not found"


def _extreme(row: Row) -> str:
    if not row["extreme_limit"]:
        return "-"
    return f"{row['extreme_rms']:.1e} ({row['extreme_limit']:.0e})"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    rule = [{"l": ":--", "r": "--:"}[side] for side in align]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))
