"""Calls that failed: counted all, and a line of JSON in the log for as many as it can bear.

A line has the fields ``event``, ``method``, ``model``, ``version``, ``id``, ``code``,
``text`` and ``ms``, and ``left_out`` where calls of that code had no line of their own
before it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from runtime.errors import Status, TwinportError

logger = logging.getLogger(__name__)

LINES_PER_SECOND = 1.0
"""Of one status code, in the long run: less than 100 MB a day of one kind of trouble."""
BURST = 20
"""Lines of one status code that may come at once."""
MAX_NAME = 200
MAX_TEXT = 1000
"""Characters of a client's names, and of the error's text."""

OTHER = "other"
"""Method of the calls that no service has; else a client could make up counters without end."""

FIELDS = "fields"
"""Attribute of a log record that holds what a structured line is made of."""

_OURS = (Status.INTERNAL, Status.UNKNOWN, Status.DATA_LOSS)


class RequestNames(NamedTuple):
    """What a request calls itself; empty where it could not be read."""

    model: str = ""
    version: str = ""
    request_id: str = ""


def no_names() -> RequestNames:
    """Of calls that name nothing."""
    return RequestNames()


@dataclass
class _Bucket:
    """How many lines of one code may be written now.

    Attributes:
        lines: As many; a fraction is on its way to the next.
        filled: When that was so.
        left_out: Calls without a line since the last one.
        timer: Says how many were left out, where no other line does.
    """

    lines: float
    filled: float
    left_out: int = 0
    timer: asyncio.TimerHandle | None = None


class FailureLog:
    """One for a server; used on its event loop."""

    def __init__(
        self,
        lines_per_second: float = LINES_PER_SECOND,
        burst: int = BURST,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """By ``METHOD CODE``."""
        self._rate = lines_per_second
        self._burst = burst
        self._clock = clock
        self._buckets: dict[Status, _Bucket] = {}

    def note(
        self,
        method: str,
        error: BaseException,
        seconds: float,
        names: Callable[[], RequestNames] = no_names,
    ) -> None:
        """Count a call, and write its line where it may have one.

        Args:
            method: Short or full name of the call.
            error: What it ended with; anything that is not of our tree was cancelled.
            seconds: How long it took.
            names: Reads the request again; called only where a line is written.
        """
        status = Status.CANCELLED
        if isinstance(error, TwinportError):
            error.noted = True
            status = error.status
        method = method.rpartition("/")[2]
        self.counts[f"{method} {status.name}"] += 1
        bucket = self._filled(status)
        if bucket.lines < 1:
            bucket.left_out += 1
            self._say_later(status, bucket)
            return
        bucket.lines -= 1
        model, version, request_id = (text[:MAX_NAME] for text in names())
        fields: dict[str, Any] = {
            "event": "failed_request",
            "method": method,
            "model": model,
            "version": version,
            "id": request_id,
            "code": status.name,
            "text": str(error)[:MAX_TEXT] or "the client gave up",
            "ms": round(seconds * 1000, 3),
        }
        _write(status, fields, bucket)

    def note_once(
        self,
        method: str,
        error: TwinportError,
        seconds: float = 0.0,
        names: Callable[[], RequestNames] = no_names,
    ) -> None:
        """Note a call, where whoever raised the error has not done so; see ``note``."""
        if not error.noted:
            self.note(method, error, seconds, names)

    def close(self) -> None:
        """Say what was left out until now."""
        for status, bucket in self._buckets.items():
            self._say_left_out(status, bucket)

    def _filled(self, status: Status) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault(status, _Bucket(self._burst, now))
        bucket.lines = min(self._burst, bucket.lines + (now - bucket.filled) * self._rate)
        bucket.filled = now
        return bucket

    def _say_later(self, status: Status, bucket: _Bucket) -> None:
        """A flood may end at once; what was left out is said without waiting for another call."""
        if bucket.timer is None:
            loop = asyncio.get_running_loop()
            wait_s = self._burst / self._rate
            bucket.timer = loop.call_later(wait_s, self._say_left_out, status, bucket)

    def _say_left_out(self, status: Status, bucket: _Bucket) -> None:
        if bucket.timer is not None:
            bucket.timer.cancel()
            bucket.timer = None
        if bucket.left_out:
            _write(status, {"event": "failed_requests", "code": status.name}, bucket)


def _write(status: Status, fields: dict[str, Any], bucket: _Bucket) -> None:
    if bucket.left_out:
        fields["left_out"] = bucket.left_out
        bucket.left_out = 0
    level = logging.ERROR if status in _OURS else logging.WARNING
    logger.log(level, "%s", json.dumps(fields), extra={FIELDS: fields})


class JsonLines(logging.Formatter):
    """Every line of the log as one JSON object; the fields of a structured one among the rest."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
        }
        fields = getattr(record, FIELDS, None)
        line |= fields if fields is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def use_json_lines() -> None:
    """Let everything that is logged be JSON."""
    for handler in logging.getLogger().handlers:
        handler.setFormatter(JsonLines())
