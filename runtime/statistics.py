"""What a model did: counts and times, kept while it serves and read by whoever asks.

The fields are those of Triton's ``ModelStatistics``. Histograms are plain lists, because an
observation is on the path of every request; exposition is somebody else's.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from runtime.errors import DeadlineExceeded, ResourceExhausted, TwinportError, Unavailable

SECONDS = (
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the histograms of time."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds of the histogram of batch sizes."""


class Failure(StrEnum):
    """Why a request was not answered; Triton's words for the label ``reason``."""

    REJECTED = "REJECTED"
    CANCELED = "CANCELED"
    BACKEND = "BACKEND"
    OTHER = "OTHER"

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Why a request ended with an error."""
        if isinstance(error, CancelledError):
            return cls.CANCELED
        if isinstance(error, (ResourceExhausted, DeadlineExceeded, Unavailable)):
            return cls.REJECTED
        return cls.BACKEND if isinstance(error, TwinportError) else cls.OTHER


@dataclass
class Duration:
    """How often something was done and how long it took in all.

    Attributes:
        count: Times.
        ns: Nanoseconds, all together.
    """

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """Count it."""
        self.count += count
        self.ns += ns


class Histogram:
    """Counts by upper bound; the last one is of what lies above all bounds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@dataclass(frozen=True)
class CallTimes:
    """One call of a backend, which may have answered several requests.

    Attributes:
        rows: Of all requests together.
        queue_ns: By request, from its arrival to the start of the call.
        input_ns: Joining the inputs.
        infer_ns: The backend's own.
        output_ns: Parting the outputs.
        ended_ns: When it ended, since the epoch.
    """

    rows: int
    queue_ns: Sequence[int]
    input_ns: int
    infer_ns: int
    output_ns: int
    ended_ns: int = field(default_factory=time.time_ns)

    @property
    def requests(self) -> int:
        """As many were answered."""
        return len(self.queue_ns)

    @property
    def compute_ns(self) -> int:
        """From the start of the call to the answers."""
        return self.input_ns + self.infer_ns + self.output_ns


@dataclass
class RequestTimes:
    """Where the time of one request went; filled in when it is answered.

    Attributes:
        queue_ns: From its arrival to the start of its call.
        call: Its call; none where it had none.
    """

    queue_ns: int = 0
    call: CallTimes | None = None


WATCHED: ContextVar[RequestTimes | None] = ContextVar("WATCHED", default=None)
"""Set around a request by whoever wants to know its times."""


@dataclass
class BatchTimes:
    """All calls of one size."""

    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)


@dataclass
class Statistics:
    """Everything counted of one version since it was loaded.

    Attributes:
        success: Requests that were answered, and their time from arrival to answer.
        fail: Requests that were not.
        queue: Waiting, by request.
        input: Joining, by request: each one of a call has the whole call's time.
        infer: Likewise, the backend.
        output: Likewise, parting.
        inferences: Rows that were computed.
        executions: Calls of the backend.
        last_ms: Milliseconds since the epoch of the last call; 0 before the first.
        batches: By rows of a call.
        failures: By reason.
        queue_seconds: Histogram by request.
        compute_seconds: Histogram by request.
        request_seconds: Histogram by request.
        batch_rows: Histogram by call.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    input: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)
    inferences: int = 0
    executions: int = 0
    last_ms: int = 0
    batches: dict[int, BatchTimes] = field(default_factory=dict)
    failures: Counter[Failure] = field(default_factory=Counter)
    queue_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    compute_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    request_seconds: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS))

    def called(self, call: CallTimes) -> None:
        """Count one call and the requests that it answered."""
        requests = len(call.queue_ns)
        compute_ns = call.compute_ns
        self.inferences += call.rows
        self.executions += 1
        self.last_ms = max(self.last_ms, call.ended_ns // 1_000_000)
        self.batch_rows.observe(call.rows)
        times = self.batches.get(call.rows)
        if times is None:
            times = self.batches[call.rows] = BatchTimes()
        times.input.add(call.input_ns)
        times.infer.add(call.infer_ns)
        times.output.add(call.output_ns)
        self.input.add(call.input_ns * requests, requests)
        self.infer.add(call.infer_ns * requests, requests)
        self.output.add(call.output_ns * requests, requests)
        queued_ns = sum(call.queue_ns)
        self.queue.add(queued_ns, requests)
        self.success.add(queued_ns + compute_ns * requests, requests)
        self.compute_seconds.observe(compute_ns * 1e-9, requests)
        for queue_ns in call.queue_ns:
            self.queue_seconds.observe(queue_ns * 1e-9)
            self.request_seconds.observe((queue_ns + compute_ns) * 1e-9)

    def failed(self, reason: Failure, ns: int) -> None:
        """Count one request that was not answered.

        Args:
            reason: Why.
            ns: From its arrival.
        """
        self.fail.add(ns)
        self.failures[reason] += 1
