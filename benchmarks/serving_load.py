"""The load of ``serving.py``: h2load and grpcio as generators, and what is asked of a server."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from serving_servers import METHOD, Running, probe

from runtime.codec import request_from_arrays

PREFIX = 5
"""Bytes before a message of gRPC."""
LIMIT_SECONDS = 30
_DONE = re.compile(r"finished in ([\d.]+)(us|ms|s)\b")
_COUNTS = re.compile(
    r"requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, (\d+) failed"
)
_DATA = re.compile(r"traffic: .*\((\d+)\) data")
_SCALE = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Case:
    """What is sent.

    Attributes:
        in_flight: Requests at one time, over all connections.
        rows: Images of one request.
        connections: As many.
        generator: ``h2load`` or ``grpcio``.
    """

    in_flight: int
    rows: int = 1
    connections: int = 1
    generator: str = "h2load"

    @property
    def key(self) -> str:
        """Its name in the record."""
        parts = [f"{self.in_flight}", f"x{self.rows}" if self.rows > 1 else ""]
        parts += [f"/{self.connections}" if self.connections > 1 else ""]
        return "".join(parts) + (" grpcio" if self.generator == "grpcio" else "")


ALONE = (Case(1),)
ONE = tuple(Case(count) for count in (1, 8, 32, 128))
MANY = tuple(Case(count, 64) for count in (1, 4, 16))
SPREAD = (Case(32, connections=8),)
BY_GRPCIO = tuple(Case(count, generator="grpcio") for count in (1, 32))


class LoadFailed(Exception):
    """Answers that are none; the text says how many."""


def payload_of(rows: int, model: str = "lenet5") -> bytes:
    """A request of as many images, always the same ones."""
    images = np.random.default_rng(rows).random((rows, 1, 32, 32), dtype=np.float32)
    return request_from_arrays({"image": images}, model=model).SerializeToString()


def measured(
    server: Running, case: Case, seconds: float, folder: Path, model: str = "lenet5"
) -> dict[str, float]:
    """Send requests for about ``seconds``.

    Raises:
        LoadFailed: Not every request was answered in full.
    """
    payload = payload_of(case.rows, model)
    try:
        return _measured(server, case, payload, seconds, folder)
    except grpc.RpcError as error:
        raise LoadFailed(f"{case.key}: {error}") from error


def _measured(
    server: Running, case: Case, payload: bytes, seconds: float, folder: Path
) -> dict[str, float]:
    answer = probe(server.url, payload)
    size = len(answer.SerializeToString())
    if answer.raw_output_contents and len(answer.raw_output_contents[0]) % 40:
        raise LoadFailed(f"{case.key}: the answer has {size} bytes")
    before = server.cpu_seconds()
    if case.generator == "grpcio":
        found = _by_grpcio(server.url, case, payload, seconds)
    else:
        found = _by_h2load(server.url, case, payload, seconds, folder, size)
    cpu = server.cpu_seconds() - before
    # The warm-up is counted on both sides.
    found["cpu_us_per_request"] = cpu / found.pop("sent") * 1e6
    found["images_per_second"] = found["requests_per_second"] * case.rows
    # Errors of gRPC travel under a 200 of HTTP; the sizes above and this one tell.
    probe(server.url, payload)
    return found


def _by_h2load(
    url: str, case: Case, payload: bytes, seconds: float, folder: Path, answer_size: int
) -> dict[str, float]:
    program = shutil.which("h2load")
    if program is None:
        raise LoadFailed("h2load is missing (Debian: nghttp2-client)")
    body, log = folder / f"body{case.rows}", folder / "h2load.log"
    body.write_bytes(b"\0" + len(payload).to_bytes(4, "big") + payload)

    def sent(count: int) -> str:
        log.unlink(missing_ok=True)
        command = [
            program, "-n", str(count), "-c", str(case.connections),
            "-m", str(max(1, case.in_flight // case.connections)), "-t", "1", "-d", str(body),
            "-H", "content-type: application/grpc", "-H", "te: trailers",
            f"--log-file={log}", f"http://{url}{METHOD}",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True
            )
        except subprocess.SubprocessError as error:
            raise LoadFailed(f"{case.key}: h2load: {error}") from error
        return done.stdout

    few = max(50, 4 * case.in_flight)
    warm_up_s = _finished(sent(few))
    count = max(few, min(100_000, int(few / warm_up_s * seconds)))
    output = sent(count)
    _check(output, count, answer_size, case)
    latencies_us = np.array([int(line.split("\t")[2]) for line in log.read_text().splitlines()])
    return {
        "requests_per_second": count / _finished(output),
        "p50_ms": float(np.percentile(latencies_us, 50)) / 1000,
        "p99_ms": float(np.percentile(latencies_us, 99)) / 1000,
        "sent": few + count,
    }


def _finished(output: str) -> float:
    found = _DONE.search(output)
    if found is None:
        raise LoadFailed(f"h2load said: {output[-300:]}")
    return float(found[1]) * _SCALE[found[2]]


def _check(output: str, count: int, answer_size: int, case: Case) -> None:
    """Every answer is a 200 and, in sum, as long as answers are; errors have no data."""
    counts, data = _COUNTS.search(output), _DATA.search(output)
    if counts is None or data is None:
        raise LoadFailed(f"{case.key}: h2load said: {output[-300:]}")
    if int(counts[4]) != count:
        raise LoadFailed(f"{case.key}: {counts[4]} of {count} requests succeeded")
    whole = count * (answer_size + PREFIX)
    if abs(int(data[1]) - whole) > whole * 0.001:
        raise LoadFailed(f"{case.key}: {data[1]} bytes of answers; wanted {whole}")


def _by_grpcio(url: str, case: Case, payload: bytes, seconds: float) -> dict[str, float]:
    """The same from Python: one client that keeps its requests in flight."""
    latencies, sent = asyncio.run(_from_python(url, case, payload, seconds))
    return {
        "requests_per_second": len(latencies) / seconds,
        "p50_ms": float(np.percentile(latencies, 50)) * 1000,
        "p99_ms": float(np.percentile(latencies, 99)) * 1000,
        "sent": sent,
    }


async def _from_python(
    url: str, case: Case, payload: bytes, seconds: float
) -> tuple[list[float], int]:
    """Seconds of each request answered in time, and how many were sent in all."""
    latencies: list[float] = []
    sent = 0

    async def keep_one(call: Any) -> None:
        nonlocal sent
        while (begun := time.perf_counter()) < end:
            sent += 1
            await call(payload, timeout=LIMIT_SECONDS)
            now = time.perf_counter()
            if begin <= now < end:
                latencies.append(now - begun)

    async with grpc.aio.insecure_channel(url) as channel:
        call = channel.unary_unary(METHOD)
        await call(payload, timeout=LIMIT_SECONDS, wait_for_ready=True)
        begin = time.perf_counter() + seconds / 5
        end = begin + seconds
        try:
            await asyncio.gather(*(keep_one(call) for _ in range(case.in_flight)))
        except grpc.RpcError as error:
            raise LoadFailed(f"{case.key}: {error}") from error
    if not latencies:
        raise LoadFailed(f"{case.key}: nothing was answered in {seconds:g} s")
    return latencies, sent
