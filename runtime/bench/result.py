"""What a load generator found: percentiles, throughput, errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True)
class Level:
    """One number of requests in flight.

    Attributes:
        in_flight: Requests at one time.
        rows: Of each.
        seconds: From the first request to the last answer.
        latencies: Seconds of each request that was answered.
        errors: The others, by gRPC code.
    """

    in_flight: int
    rows: int
    seconds: float
    latencies: tuple[float, ...]
    errors: Mapping[str, int] = field(default_factory=dict)

    @property
    def requests_per_second(self) -> float:
        """Answered ones."""
        return len(self.latencies) / self.seconds

    def percentile_ms(self, percent: float) -> float | None:
        """So many of a hundred were answered in no more than this; none where none was."""
        if not self.latencies:
            return None
        return float(np.percentile(self.latencies, percent)) * 1000

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        worst = max(self.latencies) * 1000 if self.latencies else None
        return {
            "in_flight": self.in_flight,
            "requests": len(self.latencies),
            "seconds": self.seconds,
            "requests_per_second": self.requests_per_second,
            "rows_per_second": self.requests_per_second * self.rows,
            "latency_ms": {
                **{f"p{percent}": self.percentile_ms(percent) for percent in PERCENTILES},
                "mean": float(np.mean(self.latencies)) * 1000 if self.latencies else None,
                "max": worst,
            },
            "errors": dict(self.errors),
        }


def table_of(levels: list[Level]) -> Table:
    """One row for each level."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption="latency in milliseconds",
                  caption_justify="left")  # fmt: skip
    for heading in ("in flight", "req/s", "rows/s"):
        table.add_column(heading, justify="right")
    for percent in PERCENTILES:
        table.add_column(f"p{percent}", justify="right")
    table.add_column("max", justify="right")
    table.add_column("errors", overflow="fold")
    for level in levels:
        found = level.to_dict()
        table.add_row(
            str(level.in_flight),
            f"{found['requests_per_second']:,.0f}",
            f"{found['rows_per_second']:,.0f}",
            *(ms_text(level.percentile_ms(percent)) for percent in PERCENTILES),
            ms_text(found["latency_ms"]["max"]),
            ", ".join(f"{count} {code}" for code, count in sorted(level.errors.items())) or "none",
        )
    return table


def ms_text(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
