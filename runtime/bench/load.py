"""The load generator: so many requests in flight all the time, on grpc.aio."""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from runtime.bench.result import Level
from runtime.client_wire import Connection, error_from_status, method_path
from runtime.errors import InvalidInput, TwinportError, Unavailable

MAX_SECONDS = 3600.0
MAX_REQUESTS = 10_000_000
MAX_IN_FLIGHT = 10_000
TICK_SECONDS = 0.1
"""Between two reports of progress."""

ALMOST = 0.999
"""The share of a level that still runs is told as no more than this."""

Progress = Callable[[int, float, int], None]
"""Gets requests in flight, the share of the level that is done, and requests so far."""


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        connection: Where to and how.
        in_flight: Requests at one time, a level each.
        seconds: Of one level.
        requests: Of one level, where its end is a number and not a time.
        warm_up_seconds: Before each level; not counted.
        connections: Over which requests are spread evenly.
        timeout_s: Of one request.
        rows: Of one request.
    """

    connection: Connection
    in_flight: tuple[int, ...] = (1, 8, 32)
    seconds: float = 5.0
    requests: int | None = None
    warm_up_seconds: float = 1.0
    connections: int = 1
    timeout_s: float = 60.0
    rows: int = 1

    def __post_init__(self) -> None:
        """Refuse what would go on for ever."""
        if not self.in_flight or not all(1 <= each <= MAX_IN_FLIGHT for each in self.in_flight):
            raise InvalidInput(
                f"the requests in flight are {list(self.in_flight)}; wanted 1 to {MAX_IN_FLIGHT}"
            )
        for name in ("seconds", "timeout_s"):
            if not 0 < getattr(self, name) <= MAX_SECONDS:
                raise InvalidInput(
                    f"{name} is {getattr(self, name)}; wanted above 0, to {MAX_SECONDS:g}"
                )
        if not 0 <= self.warm_up_seconds <= MAX_SECONDS:
            raise InvalidInput(f"the warm-up is {self.warm_up_seconds} s; wanted 0 to 3600")
        if self.requests is not None and not 1 <= self.requests <= MAX_REQUESTS:
            raise InvalidInput(f"requests is {self.requests}; wanted 1 to {MAX_REQUESTS}")
        if not 1 <= self.connections <= min(self.in_flight):
            raise InvalidInput(
                f"connections is {self.connections}; wanted 1 to the fewest requests in flight, "
                f"which are {min(self.in_flight)}"
            )


@dataclass
class _Tally:
    """What one level has seen so far."""

    latencies: array[float] = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)
    first_error: TwinportError | None = None
    lost: bool = False
    """Whether the request that ended last found no server."""

    @property
    def done(self) -> int:
        return len(self.latencies) + self.errors.total()


async def measure(
    plan: Plan,
    payloads: Sequence[bytes],
    progress: Progress,
    finished: Callable[[Level], None],
) -> None:
    """Send requests, one level after the other.

    Args:
        plan: What is to be measured.
        payloads: Requests that take turns.
        progress: Told of how far it is.
        finished: Gets each level at its end, those before a failure too.

    Raises:
        Unavailable: The server was gone at the end of a level, which ``finished`` has got.
        TwinportError: Of a level no request at all was answered; it is the first one's error.
    """
    # Else channels to one address share a connection.
    options = [*plan.connection.options(), ("grpc.use_local_subchannel_pool", 1)]
    channels = [_channel(plan.connection, options) for _ in range(plan.connections)]
    try:
        calls: list[Any] = [channel.unary_unary(method_path("ModelInfer")) for channel in channels]
        for each in plan.in_flight:
            level, tally = await _level(plan, each, calls, payloads, progress)
            finished(level)
            if tally.lost:
                await _check_there(plan, each, calls, payloads)
    finally:
        for channel in channels:
            await channel.close()


def _channel(connection: Connection, options: list[tuple[str, int]]) -> grpc.aio.Channel:
    credentials = connection.credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(connection.url, options=options)
    return grpc.aio.secure_channel(connection.url, credentials, options=options)


async def _level(
    plan: Plan,
    in_flight: int,
    calls: Sequence[Any],
    payloads: Sequence[bytes],
    progress: Progress,
) -> tuple[Level, _Tally]:
    warm_up = _Tally()
    await _run(plan, in_flight, calls, payloads, warm_up, plan.warm_up_seconds)
    if not warm_up.latencies and warm_up.first_error is not None:
        raise warm_up.first_error
    tally = _Tally()
    start = time.perf_counter()

    async def keep_telling() -> None:
        while True:
            passed = (time.perf_counter() - start) / plan.seconds
            share = passed if plan.requests is None else tally.done / plan.requests
            progress(in_flight, min(share, ALMOST), tally.done)
            await asyncio.sleep(TICK_SECONDS)

    teller = asyncio.create_task(keep_telling())
    try:
        if plan.requests is None:
            await _run(plan, in_flight, calls, payloads, tally, plan.seconds)
        else:
            await _run(plan, in_flight, calls, payloads, tally, MAX_SECONDS, plan.requests)
    finally:
        teller.cancel()
    wall_s = time.perf_counter() - start
    if not tally.latencies and tally.first_error is not None:
        raise tally.first_error
    progress(in_flight, 1.0, tally.done)
    level = Level(in_flight, plan.rows, wall_s, tuple(tally.latencies), dict(tally.errors))
    return level, tally


async def _check_there(
    plan: Plan, in_flight: int, calls: Sequence[Any], payloads: Sequence[bytes]
) -> None:
    """Send one more of each of the requests in flight, as a warm-up without a time does.

    Raises:
        Unavailable: None of them found a server.
    """
    tally = _Tally()
    await _run(plan, in_flight, calls, payloads, tally, 0.0)
    gone = grpc.StatusCode.UNAVAILABLE.name
    if tally.errors[gone] == tally.done:
        raise Unavailable(
            f"the server was gone at the end of the level with {in_flight} in flight, so its "
            f"numbers are not those of a server at work: {tally.first_error}"
        )


async def _run(
    plan: Plan,
    in_flight: int,
    calls: Sequence[Any],
    payloads: Sequence[bytes],
    tally: _Tally,
    seconds: float,
    requests: int = MAX_REQUESTS,
) -> None:
    """Keep requests in flight until the time is over or as many were sent; one each at least."""
    end = time.perf_counter() + seconds
    sent = itertools.count()
    turns = itertools.cycle(payloads)
    url, metadata = plan.connection.url, plan.connection.metadata

    async def keep_one(call: Any) -> None:
        first = True
        while (first or time.perf_counter() < end) and next(sent) < requests:
            first = False
            begun = time.perf_counter()
            try:
                await call(next(turns), timeout=plan.timeout_s, metadata=metadata)
            except grpc.aio.AioRpcError as error:
                tally.errors[error.code().name] += 1
                tally.lost = error.code() is grpc.StatusCode.UNAVAILABLE
                if tally.first_error is None:
                    details = error.details() or ""
                    tally.first_error = error_from_status(error.code(), details, url)
                # A server that is gone refuses at once; the loop is for others, too.
                await asyncio.sleep(0)
            else:
                tally.latencies.append(time.perf_counter() - begun)
                tally.lost = False

    await asyncio.gather(*(keep_one(calls[i % len(calls)]) for i in range(in_flight)))
