"""What all versions of a server did, at one moment: plain records that go through JSON.

Several processes that serve one repository each make one of their own; ``summed`` makes
them one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import ProcessCollector

from runtime.experts.feed import LoadFeed
from runtime.experts.summary import ExpertsSummary, experts_of_processes
from runtime.json_records import record_from_data
from runtime.shadow.summary import ShadowSummary, shadows_of_processes, summary_of
from runtime.statistics import BatchTimes, Failure, Histogram, Statistics
from runtime.versions import State, Version

_CPU = "process_cpu_seconds_total"
_LEAST = ("process_start_time_seconds", "process_max_fds")
"""Of several processes the least; anything else of a process adds up."""


@dataclass(frozen=True)
class Counts:
    """A histogram that nobody changes any more; see ``statistics.Histogram``."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    def __add__(self, other: Counts) -> Counts:
        """Both together; their bounds are the same."""
        assert self.bounds == other.bounds, "histograms of one server have one set of bounds"
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return Counts(self.bounds, counts, self.sum + other.sum)


@dataclass(frozen=True)
class BatchWork:
    """All calls of one size.

    Attributes:
        rows: Of each.
        calls: How many.
        input_ns: Joining, all together.
        infer_ns: The backend.
        output_ns: Parting the answers.
    """

    rows: int
    calls: int
    input_ns: int
    infer_ns: int
    output_ns: int

    def __add__(self, other: BatchWork) -> BatchWork:
        """Both together; their size is the same."""
        return BatchWork(
            self.rows,
            self.calls + other.calls,
            self.input_ns + other.input_ns,
            self.infer_ns + other.infer_ns,
            self.output_ns + other.output_ns,
        )


@dataclass(frozen=True)
class Work:
    """What one loaded version did since it was loaded; see ``statistics.Statistics``.

    Attributes:
        waiting: Requests in the queue now.
        success: Requests that were answered.
        inferences: Rows.
        executions: Calls of the backend.
        request_ns: From arrival to answer, of all requests that were answered.
        queue_ns: Their waiting.
        input_ns: Joining them.
        infer_ns: The backend.
        output_ns: Parting the answers.
        fail_ns: From arrival to the error, of all requests that were not answered.
        failures: Those requests, by ``statistics.Failure``.
        last_ms: Milliseconds since the epoch of the last call; 0 before the first.
        batches: Calls by their size, ascending.
        queue_seconds: By request.
        compute_seconds: By request.
        request_seconds: By request.
        batch_rows: By call.
    """

    waiting: int
    success: int
    inferences: int
    executions: int
    request_ns: int
    queue_ns: int
    input_ns: int
    infer_ns: int
    output_ns: int
    fail_ns: int
    failures: dict[str, int]
    last_ms: int
    batches: tuple[BatchWork, ...]
    queue_seconds: Counts
    compute_seconds: Counts
    request_seconds: Counts
    batch_rows: Counts

    def __add__(self, other: Work) -> Work:
        """What both did together."""
        sums = {
            item.name: getattr(self, item.name) + getattr(other, item.name)
            for item in dataclasses.fields(self)
            if item.name not in ("failures", "last_ms", "batches")
        }
        by_rows: dict[int, BatchWork] = {}
        for batch in (*self.batches, *other.batches):
            known = by_rows.get(batch.rows)
            by_rows[batch.rows] = batch if known is None else known + batch
        return Work(
            failures=_added(self.failures, other.failures),
            last_ms=max(self.last_ms, other.last_ms),
            batches=tuple(by_rows[rows] for rows in sorted(by_rows)),
            **sums,
        )


@dataclass(frozen=True)
class VersionSnapshot:
    """One version of a model.

    Attributes:
        model: The model's name.
        version: The number.
        ready: Whether it answers.
        work: None while it is not loaded.
        shadow: None where its answers are not checked.
        experts: None where the load of experts is not counted.
    """

    model: str
    version: int
    ready: bool
    work: Work | None = None
    shadow: ShadowSummary | None = None
    experts: ExpertsSummary | None = None


@dataclass(frozen=True)
class Snapshot:
    """One server, or all processes of one.

    Attributes:
        versions: Every version that is to be served.
        failed_calls: By ``METHOD CODE``: calls that ended with an error.
        process: By the names of Prometheus: CPU seconds, memory, open files.
    """

    versions: tuple[VersionSnapshot, ...] = ()
    failed_calls: dict[str, int] = field(default_factory=dict)
    process: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    def without_experts(self) -> Snapshot:
        """For who wants the rest alone: of large models they are nearly all of it."""
        versions = (dataclasses.replace(item, experts=None) for item in self.versions)
        return dataclasses.replace(self, versions=tuple(versions))


@dataclass(frozen=True)
class Taken:
    """What the event loop gave of a snapshot.

    Attributes:
        rest: All but the load of experts.
        loads: Of the versions whose experts are counted, by model and version.
    """

    rest: Snapshot
    loads: Mapping[tuple[str, int], LoadFeed]

    def whole(self) -> Snapshot:
        """The snapshot; in another thread than the event loop's, as it may take long."""
        versions = tuple(
            dataclasses.replace(item, experts=load.summary())
            if (load := self.loads.get((item.model, item.version))) is not None
            else item
            for item in self.rest.versions
        )
        return dataclasses.replace(self.rest, versions=versions)


def snapshot_from_dict(data: dict[str, Any]) -> Snapshot:
    """Read what ``to_dict`` made, with or without JSON in between.

    Raises:
        ManifestError: It is no snapshot.
    """
    return record_from_data(Snapshot, _lists(data), "the snapshot")


def snapshot_of(versions: Iterable[Version], failed_calls: Mapping[str, int]) -> Taken:
    """Begin one; to be called where the statistics are changed, on the event loop.

    Args:
        versions: Those of the repository.
        failed_calls: See ``Snapshot``.
    """
    wanted = [item for item in versions if item.wanted]
    loads = {
        (item.name, item.number): item.model.loads
        for item in wanted
        if item.model is not None and item.model.loads is not None
    }
    found = tuple(_of_version(item) for item in wanted)
    return Taken(Snapshot(found, dict(failed_calls), process_numbers()), loads)


def process_numbers(pid: int | None = None) -> dict[str, float]:
    """What the system says of a process, this one where none is named; empty off Linux."""
    metrics = ProcessCollector(pid=lambda: pid or os.getpid(), registry=None).collect()
    return {sample.name: sample.value for metric in metrics for sample in metric.samples}


def summed(snapshots: Sequence[Snapshot], ended: Sequence[Snapshot] = ()) -> Snapshot:
    """One snapshot for several processes that serve the same.

    A version is ready where every process has it ready: a request may reach any of them.

    Args:
        snapshots: Of the processes that run.
        ended: The last ones of processes that have ended: a counter may not fall then.
    """
    versions: dict[tuple[str, int], VersionSnapshot] = {}
    for item in (item for snapshot in snapshots for item in snapshot.versions):
        key = item.model, item.version
        versions[key] = _both(versions[key], item) if key in versions else item
    for item in (item for snapshot in ended for item in snapshot.versions):
        live = versions.get((item.model, item.version))
        if live is not None and live.work is not None and item.work is not None:
            past = dataclasses.replace(item.work, waiting=0)
            shadow = shadows_of_processes(live.shadow, item.shadow, ended=True)
            experts = experts_of_processes(live.experts, item.experts, ended=True)
            versions[item.model, item.version] = dataclasses.replace(
                live, work=live.work + past, shadow=shadow, experts=experts
            )
    failed: dict[str, int] = {}
    for snapshot in (*snapshots, *ended):
        failed = _added(failed, snapshot.failed_calls)
    ordered = tuple(versions[key] for key in sorted(versions))
    return Snapshot(ordered, failed, _processes(snapshots, ended))


def past_of(last: Snapshot, past: Snapshot) -> Snapshot:
    """What ``summed`` wants of all processes that have ended, in one; it grows with none of them.

    Args:
        last: Of the one that ended last.
        past: Of those before it; an empty one where there are none.
    """
    together = summed([last, past])
    versions = (
        dataclasses.replace(item, experts=dataclasses.replace(item.experts, pairs=None))
        if item.experts is not None
        else item
        for item in together.versions
    )
    return dataclasses.replace(together, versions=tuple(versions))


def _processes(snapshots: Sequence[Snapshot], ended: Sequence[Snapshot]) -> dict[str, float]:
    together: dict[str, float] = {}
    for name, value in (pair for item in snapshots for pair in item.process.items()):
        if name in together:
            value = min(together[name], value) if name in _LEAST else together[name] + value
        together[name] = value
    if _CPU in together:
        together[_CPU] += sum(item.process.get(_CPU, 0.0) for item in ended)
    return together


def _of_version(version: Version) -> VersionSnapshot:
    ready = version.state is State.READY
    if version.model is None:
        return VersionSnapshot(version.name, version.number, ready)
    work = work_of(version.model.statistics, version.model.waiting)
    checks = version.model.shadow
    shadow = summary_of(checks) if checks is not None else None
    return VersionSnapshot(version.name, version.number, ready, work, shadow)


def work_of(statistics: Statistics, waiting: int) -> Work:
    """The statistics of a loaded version as they are now."""
    return Work(
        waiting=waiting,
        success=statistics.success.count,
        inferences=statistics.inferences,
        executions=statistics.executions,
        request_ns=statistics.success.ns,
        queue_ns=statistics.queue.ns,
        input_ns=statistics.input.ns,
        infer_ns=statistics.infer.ns,
        output_ns=statistics.output.ns,
        fail_ns=statistics.fail.ns,
        failures={reason.value: statistics.failures[reason] for reason in Failure},
        last_ms=statistics.last_ms,
        batches=tuple(
            _of_size(rows, statistics.batches[rows]) for rows in sorted(statistics.batches)
        ),
        queue_seconds=_counts(statistics.queue_seconds),
        compute_seconds=_counts(statistics.compute_seconds),
        request_seconds=_counts(statistics.request_seconds),
        batch_rows=_counts(statistics.batch_rows),
    )


def _of_size(rows: int, times: BatchTimes) -> BatchWork:
    return BatchWork(rows, times.infer.count, times.input.ns, times.infer.ns, times.output.ns)


def _counts(histogram: Histogram) -> Counts:
    return Counts(histogram.bounds, tuple(histogram.counts), float(histogram.sum))


def _both(one: VersionSnapshot, other: VersionSnapshot) -> VersionSnapshot:
    if one.work is None or other.work is None:
        work = one.work or other.work
    else:
        work = one.work + other.work
    shadow = shadows_of_processes(one.shadow, other.shadow)
    experts = experts_of_processes(one.experts, other.experts)
    return VersionSnapshot(one.model, one.version, one.ready and other.ready, work, shadow, experts)


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in {**one, **other}}


def _lists(value: Any) -> Any:
    """Tuples as the lists that JSON makes of them."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, (list, tuple)) else value
