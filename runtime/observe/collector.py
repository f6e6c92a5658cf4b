"""A snapshot of the server in the text format of Prometheus.

Counters of requests have the names, units and labels of Triton (its ``docs/user_guide/
metrics.md``), so that dashboards made for it work. Triton's counters do not end in
``_total``, which prometheus-client adds to the heads of counters; ``exposition`` takes it
off again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from runtime.observe.experts import expert_families
from runtime.observe.host import Host
from runtime.observe.shadows import shadow_families
from runtime.observe.snapshot import Counts, Snapshot, VersionSnapshot, Work

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABELS = ("model", "version")
_HEAD_OF_TRITONS = re.compile(rb"^(# (?:HELP|TYPE) nv_\w+)_total ", re.M)

_COUNTERS: Sequence[tuple[str, str, Callable[[Work], float]]] = (
    (
        "nv_inference_request_success",
        "Number of successful inference requests, all batch sizes",
        lambda work: work.success,
    ),
    ("nv_inference_count", "Number of inferences performed", lambda work: work.inferences),
    (
        "nv_inference_exec_count",
        "Number of model executions performed",
        lambda work: work.executions,
    ),
    (
        "nv_inference_request_duration_us",
        "Cumulative inference request duration in microseconds",
        lambda work: work.request_ns // 1000,
    ),
    (
        "nv_inference_queue_duration_us",
        "Cumulative inference queuing duration in microseconds",
        lambda work: work.queue_ns // 1000,
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Cumulative compute input duration in microseconds",
        lambda work: work.input_ns // 1000,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Cumulative compute inference duration in microseconds",
        lambda work: work.infer_ns // 1000,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Cumulative inference compute output duration in microseconds",
        lambda work: work.output_ns // 1000,
    ),
)

_HISTOGRAMS: Sequence[tuple[str, str, Callable[[Work], Counts]]] = (
    ("twinport_queue_seconds", "Waiting of a request", lambda work: work.queue_seconds),
    (
        "twinport_compute_seconds",
        "The call that answered a request",
        lambda work: work.compute_seconds,
    ),
    (
        "twinport_request_seconds",
        "A request from its arrival to its answer",
        lambda work: work.request_seconds,
    ),
    ("twinport_batch_rows", "Rows of a call of the backend", lambda work: work.batch_rows),
)

_PROCESS = {
    "process_cpu_seconds_total": "Total user and system CPU time spent in seconds.",
    "process_resident_memory_bytes": "Resident memory size in bytes.",
    "process_virtual_memory_bytes": "Virtual memory size in bytes.",
    "process_open_fds": "Number of open file descriptors.",
    "process_max_fds": "Maximum number of open file descriptors.",
    "process_start_time_seconds": "Start time of the process since unix epoch in seconds.",
}


class SnapshotCollector(Collector):
    """Asks for a snapshot at each scrape; nothing is counted in between."""

    def __init__(self, snapshot: Callable[[], Snapshot], host: Host) -> None:
        self._snapshot = snapshot
        self._host = host

    def collect(self) -> Iterator[Metric]:
        """All families."""
        snapshot = self._snapshot()
        loaded = [(item, item.work) for item in snapshot.versions if item.work is not None]
        yield from _request_families(loaded)
        yield from _histogram_families(loaded)
        yield from shadow_families(snapshot.versions)
        yield from expert_families(snapshot.versions)
        ready = GaugeMetricFamily(
            "twinport_model_ready", "1 where the version answers", labels=_LABELS
        )
        for item in snapshot.versions:
            ready.add_metric(_labels(item), int(item.ready))
        yield ready
        failed = CounterMetricFamily(
            "twinport_failed_calls", "Calls that ended with an error", labels=("method", "code")
        )
        for key, count in sorted(snapshot.failed_calls.items()):
            failed.add_metric(key.split(), count)
        yield failed
        yield from _process_families(snapshot)
        for name, help_text, value in self._host.numbers():
            yield GaugeMetricFamily(name, help_text, value)


def exposition(snapshot: Callable[[], Snapshot]) -> Callable[[], bytes]:
    """What gives the text of all metrics, made anew at each call."""
    # Without auto_describe: registering would take a snapshot.
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshot, Host()))
    return lambda: _HEAD_OF_TRITONS.sub(rb"\1 ", generate_latest(registry))


Loaded: TypeAlias = Sequence[tuple[VersionSnapshot, Work]]


def _labels(item: VersionSnapshot) -> tuple[str, str]:
    return item.model, str(item.version)


def _request_families(loaded: Loaded) -> Iterator[Metric]:
    for name, help_text, value in _COUNTERS:
        metric = Metric(name, help_text, "counter")
        for item, work in loaded:
            metric.add_sample(name, dict(zip(_LABELS, _labels(item), strict=True)), value(work))
        yield metric
    name = "nv_inference_request_failure"
    failure = Metric(name, "Number of failed inference requests, all batch sizes", "counter")
    for item, work in loaded:
        labels = dict(zip(_LABELS, _labels(item), strict=True))
        for reason, count in work.failures.items():
            failure.add_sample(name, {**labels, "reason": reason}, count)
    yield failure
    waiting = GaugeMetricFamily(
        "nv_inference_pending_request_count",
        "Instantaneous number of pending requests awaiting execution per-model",
        labels=_LABELS,
    )
    for item, work in loaded:
        waiting.add_metric(_labels(item), work.waiting)
    yield waiting


def _histogram_families(loaded: Loaded) -> Iterator[Metric]:
    for name, help_text, counts_of in _HISTOGRAMS:
        family = HistogramMetricFamily(name, help_text, labels=_LABELS)
        for item, work in loaded:
            counts = counts_of(work)
            bounds = [*map(floatToGoString, counts.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(counts.counts), strict=True))
            family.add_metric(_labels(item), buckets, counts.sum)
        yield family


def _process_families(snapshot: Snapshot) -> Iterator[Metric]:
    for name, help_text in _PROCESS.items():
        if name in snapshot.process:
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            yield kind(name, help_text, snapshot.process[name])
