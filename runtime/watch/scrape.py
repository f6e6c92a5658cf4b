"""Metrics of a server as numbers by model, and what lies between two looks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from runtime.errors import InvalidInput, Unavailable

TIMEOUT_S = 10.0
MAX_BYTES = 64 * 2**20
READ_BYTES = 2**16

Key = tuple[str, str]
"""Name and version of a model."""

_SUMS = {
    "nv_inference_request_success_total": "requests",
    "nv_inference_count_total": "rows",
    "nv_inference_exec_count_total": "calls",
    "nv_inference_request_failure_total": "failures",
    "nv_inference_pending_request_count": "waiting",
    "twinport_model_ready": "ready",
}
_COUNTERS = ("requests", "rows", "calls", "failures")
"""Of those, what never falls while a model stays loaded."""
_HISTOGRAMS = {
    "twinport_queue_seconds_bucket": "queue",
    "twinport_compute_seconds_bucket": "compute",
}


@dataclass
class Numbers:
    """What the metrics say of one version."""

    sums: dict[str, float] = field(default_factory=dict)
    buckets: dict[str, dict[float, float]] = field(default_factory=dict)
    """By histogram: requests up to each bound, cumulative."""


@dataclass(frozen=True)
class Look:
    """All versions at one moment.

    Attributes:
        at: On the clock of ``time.monotonic``.
        models: By name and version.
    """

    at: float
    models: Mapping[Key, Numbers]


@dataclass(frozen=True)
class Row:
    """What one version did between two looks.

    Attributes:
        requests_per_second: Answered ones; none where there is no earlier look, and so below.
        rows_per_second: Rows of them.
        mean_batch: Rows of a call; none where none was made.
        queue_ms: Median and 99th percentile; none where nothing was answered.
        compute_ms: The same of the call.
        failures: All since the version was loaded.
        failures_per_second: In between.
    """

    model: str
    version: str
    ready: bool
    waiting: int
    requests_per_second: float | None
    rows_per_second: float | None
    mean_batch: float | None
    queue_ms: tuple[float | None, float | None]
    compute_ms: tuple[float | None, float | None]
    failures: int
    failures_per_second: float | None


def look_at(url: str) -> Look:
    """Fetch the metrics once.

    Args:
        url: Whole, as ``metrics_url`` makes it.

    Raises:
        Unavailable: Nobody answers there.
        InvalidInput: What answers gives no metrics of models.
    """
    samples = samples_at(url)
    try:
        return Look(time.monotonic(), _numbers(samples))
    except ValueError as error:
        raise InvalidInput(f"{url} has a histogram without bounds") from error


def samples_at(url: str) -> list[Sample]:
    """All that the metrics of a server say; see ``look_at``.

    Raises:
        Unavailable: Nobody answers there.
        InvalidInput: What answers gives no metrics of models.
    """
    try:
        text = _fetched(url).decode()
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    except ValueError as error:
        raise InvalidInput(f"{url} does not answer in the format of Prometheus") from error
    if not any(sample.name.startswith(("nv_", "twinport_")) for sample in samples):
        raise InvalidInput(f"{url} has no metrics of models; give the server's --metrics-port")
    return samples


def _fetched(url: str) -> bytes:
    """The body of one answer, within the time and the size of one."""
    # A proxy has no business between us and a server at an address that was named.
    opener = build_opener(ProxyHandler({}))
    end = time.monotonic() + TIMEOUT_S
    body = bytearray()
    try:
        with opener.open(url, timeout=TIMEOUT_S) as answer:
            while part := answer.read1(READ_BYTES):
                body += part
                if len(body) > MAX_BYTES:
                    raise InvalidInput(f"{url} answers more than {MAX_BYTES >> 20} MiB")
                if time.monotonic() > end:
                    raise TimeoutError(f"no end of the answer after {TIMEOUT_S:g} s")
            if answer.length:
                raise ConnectionError("the answer is cut off")
    except HTTPError as error:
        error.close()
        raise InvalidInput(f"{url} answers {error.code}; wanted the metrics of a server") from error
    except (HTTPException, ValueError) as error:
        raise InvalidInput(
            f"what answers at {url} is not HTTP; give the server's --metrics-port"
        ) from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(
            f"no metrics at {url}: {reason}; `twinport serve` prints where they are"
        ) from error
    return bytes(body)


def metrics_url(text: str) -> str:
    """``HOST:PORT`` or a whole address as a whole address."""
    if "://" not in text:
        text = f"http://{text}"
    if not text.startswith(("http://", "https://")):
        raise InvalidInput(f"'{text}' is no address of metrics; wanted HOST:PORT or http://…")
    scheme, _, rest = text.partition("://")
    return text if "/" in rest else f"{scheme}://{rest}/metrics"


def rows_between(before: Look | None, now: Look) -> list[Row]:
    """One row a version, sorted; a version that was loaded anew in between counts from 0."""
    passed = now.at - before.at if before is not None else 0.0
    return [
        _row(key, before.models.get(key, Numbers()) if before else None, numbers, passed)
        for key, numbers in sorted(now.models.items(), key=_order)
    ]


def _numbers(samples: Sequence[Sample]) -> dict[Key, Numbers]:
    models: dict[Key, Numbers] = {}
    for name, labels, value, *_ in samples:
        if "model" not in labels:
            continue
        numbers = models.setdefault((labels["model"], labels.get("version", "")), Numbers())
        if not math.isfinite(value):
            continue
        if name in _SUMS:
            # Failures have a sample for each reason.
            numbers.sums[_SUMS[name]] = numbers.sums.get(_SUMS[name], 0.0) + value
        elif name in _HISTOGRAMS:
            bounds = numbers.buckets.setdefault(_HISTOGRAMS[name], {})
            bounds[float(labels.get("le", ""))] = value
    return models


def _order(item: tuple[Key, Numbers]) -> tuple[str, int, str]:
    (model, version), _ = item
    return model, int(version) if version.isdecimal() else 0, version


def _row(key: Key, before: Numbers | None, now: Numbers, passed: float) -> Row:
    if before is not None and _fell(before, now):
        before = Numbers()
    grown = {
        name: value - (before or Numbers()).sums.get(name, 0) for name, value in now.sums.items()
    }
    per_second = {
        name: max(value, 0.0) / passed if before is not None and passed > 0 else None
        for name, value in grown.items()
    }
    calls = grown.get("calls", 0)
    return Row(
        model=key[0],
        version=key[1],
        # Triton has no such gauge; what it shows is loaded.
        ready=now.sums.get("ready", 1) > 0,
        waiting=int(now.sums.get("waiting", 0)),
        requests_per_second=per_second.get("requests"),
        rows_per_second=per_second.get("rows"),
        mean_batch=grown.get("rows", 0) / calls if calls > 0 else None,
        queue_ms=_percentiles_ms("queue", before, now),
        compute_ms=_percentiles_ms("compute", before, now),
        failures=int(now.sums.get("failures", 0)),
        failures_per_second=per_second.get("failures"),
    )


def _fell(before: Numbers, now: Numbers) -> bool:
    """Whether a counter is lower than it was, which happens where it began anew."""
    return any(before.sums.get(name, 0) > now.sums.get(name, 0) for name in _COUNTERS) or any(
        count > buckets.get(bound, 0)
        for name, buckets in now.buckets.items()
        for bound, count in before.buckets.get(name, {}).items()
    )


def _percentiles_ms(
    name: str, before: Numbers | None, now: Numbers
) -> tuple[float | None, float | None]:
    earlier = before.buckets.get(name, {}) if before else {}
    buckets = [
        (bound, count - earlier.get(bound, 0))
        for bound, count in sorted(now.buckets.get(name, {}).items())
    ]
    return tuple(  # type: ignore[return-value]
        None if value is None else value * 1000
        for value in (quantile(buckets, 0.5), quantile(buckets, 0.99))
    )


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """A quantile of a histogram, spread evenly inside a bucket, as ``histogram_quantile`` has it.

    Args:
        buckets: Upper bound and how many are up to it, ascending; the last bound is infinite.
        share: From 0 to 1.

    Returns:
        None where nothing was counted; the last finite bound for what lies above it.
    """
    total = buckets[-1][1] if buckets else 0
    if total <= 0:
        return None
    wanted = share * total
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted and count > below:
            if math.isinf(bound):
                return low
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


def row_to_dict(row: Row) -> dict[str, Any]:
    """For JSON."""
    record = {**vars(row)}
    for name in ("queue_ms", "compute_ms"):
        median, tail = record[name]
        record[name] = {"p50": median, "p99": tail}
    return record
