"""The checks of answers against a reference as metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from runtime.observe.snapshot import VersionSnapshot

_LABELS = ("model", "version")


def shadow_families(versions: Iterable[VersionSnapshot]) -> Iterator[Metric]:
    """All families, of the versions whose answers are checked; none where none are."""
    checked = [
        ((item.model, str(item.version)), item.shadow)
        for item in versions
        if item.shadow is not None
    ]
    if not checked:
        return
    requests = CounterMetricFamily(
        "twinport_shadow_requests",
        "Requests that were chosen to be computed again on the reference",
        labels=(*_LABELS, "outcome"),
    )
    rows = CounterMetricFamily(
        "twinport_shadow_rows", "Rows of the requests that count", labels=(*_LABELS, "outcome")
    )
    drifting = GaugeMetricFamily(
        "twinport_shadow_drifting", "1 where the version drifts from its reference", labels=_LABELS
    )
    of_output = (*_LABELS, "output")
    rms = GaugeMetricFamily(
        "twinport_shadow_rms",
        "RMS of the difference to the reference in units of float32's own error",
        labels=of_output,
    )
    limit = GaugeMetricFamily(
        "twinport_shadow_rms_limit", "The most that a sound version may have", labels=of_output
    )
    differing = GaugeMetricFamily(
        "twinport_shadow_differing",
        "Share of rows that differ where they must be equal",
        labels=of_output,
    )
    for labels, shadow in checked:
        for outcome, count in shadow.requests.items():
            requests.add_metric((*labels, outcome), count)
        for outcome, count in shadow.rows.items():
            rows.add_metric((*labels, outcome), count)
        drifting.add_metric(labels, int(bool(shadow.drifts)))
        for name, item in shadow.outputs.items():
            rms.add_metric((*labels, name), math.inf if item.rms is None else item.rms)
            limit.add_metric((*labels, name), item.limit)
            differing.add_metric((*labels, name), item.differing)
    yield from (requests, rows, drifting, rms, limit, differing)
