"""The picture of what ``serving.py`` found: requests a second over requests in flight."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

LEVELS = (1, 8, 32, 128)


def draw(record: Mapping[str, Any], path: Path) -> None:
    """One line for each server, with the spread over the rounds; empty ones dashed."""
    matplotlib.rcParams["svg.hashsalt"] = "serving"
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for name, server in record["servers"].items():
        cases = [
            (level, server["cases"][str(level)]["requests_per_second"])
            for level in LEVELS
            if str(level) in server["cases"]
        ]
        if not cases or name.startswith("bare"):
            continue
        levels = [level for level, _ in cases]
        middle = [median(values) for _, values in cases]
        style = "--" if name.startswith("empty") else "-"
        (line,) = axes.plot(levels, middle, style, marker="o", markersize=4, label=name)
        lows, highs = ([ends(values) for _, values in cases] for ends in (min, max))
        axes.fill_between(levels, lows, highs, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(LEVELS, [str(level) for level in LEVELS])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("requests in flight, one image each, one connection")
    axes.set_ylabel("requests/s")
    axes.set_title(f"LeNet-5 served on {record['machine']}", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
