"""What is told of the checks on a version: numbers that go through JSON, of one process or all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.shadow.shadow import Shadow


@dataclass(frozen=True)
class OutputSummary:
    """One output over the window.

    Attributes:
        rms: Of the difference, in units of float32's own error; none where it is not finite.
        limit: The most that a sound version may have.
        differing: Share of rows that differ where they must be equal.
    """

    rms: float | None
    limit: float
    differing: float


@dataclass(frozen=True)
class ShadowSummary:
    """The checks on a version.

    Attributes:
        share: Of the requests.
        drifts: Why it is said to drift; empty where it is not.
        trouble: Why nothing is compared; empty where it is.
        requests: By what became of them: compared, extreme, extreme_differing, failed, dropped.
        rows: Of those compared: compared, near_tie, rerouted.
        outputs: By name.
    """

    share: float
    drifts: str
    trouble: str
    requests: dict[str, int]
    rows: dict[str, int]
    outputs: dict[str, OutputSummary] = field(default_factory=dict)


def summary_of(shadow: Shadow) -> ShadowSummary:
    """How the checks stand now."""
    counts = shadow.counts
    return ShadowSummary(
        share=shadow.settings.share,
        drifts=shadow.drift.reason,
        trouble=shadow.trouble,
        requests={
            "compared": counts.compared,
            "extreme": counts.extreme - counts.extreme_differing,
            "extreme_differing": counts.extreme_differing,
            "failed": counts.failed,
            "dropped": counts.dropped,
        },
        rows={
            "compared": counts.rows - counts.near_ties - counts.rerouted,
            "near_tie": counts.near_ties,
            "rerouted": counts.rerouted,
        },
        outputs={
            name: OutputSummary(
                item.rms if math.isfinite(item.rms) else None, item.limit, item.differing
            )
            for name, item in shadow.drift.outputs.items()
        },
    )


def shadow_summary(shadow: Shadow) -> dict[str, Any]:
    """The same for JSON."""
    return dataclasses.asdict(summary_of(shadow))


def shadows_of_processes(
    one: ShadowSummary | None, other: ShadowSummary | None, *, ended: bool = False
) -> ShadowSummary | None:
    """Two processes as one: counts add up, of drifts the worse one counts.

    Args:
        one: Of a process.
        other: Of another.
        ended: Whether the other has ended, so that only its counts are left.
    """
    if one is None or other is None:
        return one if ended else one or other
    counted = dataclasses.replace(
        one, requests=_added(one.requests, other.requests), rows=_added(one.rows, other.rows)
    )
    if ended:
        return counted
    outputs = dict(one.outputs)
    for name, item in other.outputs.items():
        outputs[name] = _worse(outputs[name], item) if name in outputs else item
    return dataclasses.replace(
        counted,
        drifts=one.drifts or other.drifts,
        trouble=one.trouble or other.trouble,
        outputs=outputs,
    )


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _worse(one: OutputSummary, other: OutputSummary) -> OutputSummary:
    infinite = one.rms is None or other.rms is None
    return OutputSummary(
        None if infinite else max(one.rms or 0.0, other.rms or 0.0),
        min(one.limit, other.limit),
        max(one.differing, other.differing),
    )
