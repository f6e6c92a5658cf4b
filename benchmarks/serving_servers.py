"""The servers that ``serving.py`` compares: how each starts, is known to be ready, and ends.

Each listens on 127.0.0.1 alone and serves LeNet-5 with one thread in a call.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import numpy as np
from serving_session import ARTIFACT, artifact_of, session_of

from protos import ModelInferRequest, ModelInferResponse
from runtime.codec import arrays_from_response
from runtime.tensor_bytes import array_from_bytes
from runtime.tensors import BY_NAME

ROOT = Path(__file__).parents[1]
METHOD = "/inference.GRPCInferenceService/ModelInfer"
READY_SECONDS = 60.0
EXIT_SECONDS = 15.0
_TICKS = os.sysconf("SC_CLK_TCK")


class NotRun(Exception):
    """A server that cannot run here; the text says why."""


@dataclass(frozen=True)
class Start:
    """How to start a server.

    Attributes:
        command: The program and its arguments.
        environment: Variables beside those of this process.
        computes: Whether it answers what the model says; else a constant.
    """

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    computes: bool = True


Starter = Callable[[Path, Path, int], Start]
"""Repository, a folder of its own and a port to the way to start it; raises ``NotRun``."""


def ours(*options: str) -> Starter:
    """The finished server, metrics on."""

    def start(repository: Path, folder: Path, port: int) -> Start:
        command = [sys.executable, "-m", "runtime", str(repository)]
        places = ["--port", str(port), "--metrics-port", "0", "--state", str(folder / "state")]
        return Start([*command, *places, *options])

    return start


def empty(transport: str) -> Starter:
    """The transport alone."""

    def start(repository: Path, folder: Path, port: int) -> Start:
        program = str(ROOT / "benchmarks" / "serving_empty.py")
        state = str(folder / "state")
        command = [sys.executable, program, str(repository), transport, str(port), state]
        return Start(command, computes=False)

    return start


def bare(transport: str) -> Starter:
    """The transport and ONNX Runtime, with no more between them than has to be."""
    start_empty = empty(transport)

    def start(repository: Path, folder: Path, port: int) -> Start:
        environment = {ARTIFACT: str(artifact_of(repository))}
        return replace(start_empty(repository, folder, port), environment=environment)

    return start


def empty_aio(_repository: Path, _folder: Path, port: int) -> Start:
    """``grpc.aio`` alone, which the transport ``grpcio`` is compared with."""
    program = str(ROOT / "benchmarks" / "serving_empty_aio.py")
    return Start([sys.executable, program, str(port)], computes=False)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """A server that answers.

    Attributes:
        url: ``HOST:PORT``.
        ready_s: From the start of its process to its first right answer.
        exit_ms: From SIGTERM to the end of its process; set when it has ended.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self.url = url
        self.ready_s = 0.0
        self.exit_ms: float | None = None
        self._process = process

    def tree(self) -> list[int]:
        """The ids of its process and all below it."""
        parents: dict[int, int] = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with suppress(OSError):
                    parents[int(entry)] = int(_stat(int(entry))[1])
        found = [self._process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def cpu_seconds(self) -> float:
        """Of the whole tree so far, user and system."""
        total = 0
        for pid in self.tree():
            with suppress(OSError):
                fields = _stat(pid)
                total += int(fields[11]) + int(fields[12])
        return total / _TICKS

    def resident_mb(self) -> float:
        """Of the whole tree; memory that several share counts once (Pss)."""
        total = 0
        for pid in self.tree():
            with suppress(OSError):
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
                    if line.startswith("Pss:"):
                        total += int(line.split()[1])
        return total / 1024

    def wait_ready(self, payload: bytes, log: Path) -> None:
        """Ask until it answers.

        Raises:
            NotRun: It ended, or never answered.
        """
        end = time.monotonic() + READY_SECONDS
        last = "it does not listen"
        host, port = self.url.split(":")
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise NotRun(f"it ended with {self._process.returncode}: {_tail(log)}")
            with suppress(OSError), socket.create_connection((host, int(port)), 1):
                try:
                    probe(self.url, payload)
                except grpc.RpcError as error:
                    last = str(error.details())
                else:
                    return
            time.sleep(0.01)
        raise NotRun(f"no answer after {READY_SECONDS:g} s: {last}; {_tail(log)}")

    def end(self) -> None:
        """SIGTERM, and the end of what is left after ``EXIT_SECONDS``."""
        tree = self.tree()
        start = time.perf_counter()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(EXIT_SECONDS)
            self.exit_ms = (time.perf_counter() - start) * 1000
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(EXIT_SECONDS)
        for pid in tree[1:]:
            # Only what it started and left behind; a number in use again has another parent.
            with suppress(OSError):
                if int(_stat(pid)[1]) in (1, *tree):
                    os.kill(pid, signal.SIGKILL)


def probe(url: str, payload: bytes) -> ModelInferResponse:
    """One request.

    Raises:
        grpc.RpcError: It failed; this sees the status of gRPC.
    """
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(url, options=options) as channel:
        return ModelInferResponse.FromString(channel.unary_unary(METHOD)(payload, timeout=5))


def check_right(url: str, repository: Path, payload: bytes) -> None:
    """Compare an answer with what ONNX Runtime says in this process.

    Raises:
        NotRun: They differ by more than rounding.
    """
    request = ModelInferRequest.FromString(payload)
    image = array_from_bytes(
        request.raw_input_contents[0], BY_NAME["float32"], request.inputs[0].shape, "the image"
    )
    session = session_of(artifact_of(repository))
    (right,) = session.run(["logits"], {"image": image})
    logits = arrays_from_response(probe(url, payload)).get("logits", np.zeros(0))
    if logits.shape != right.shape or not np.allclose(logits, right, rtol=1e-4, atol=1e-4):
        raise NotRun(f"it answers {logits.tolist()}; ONNX Runtime says {right.tolist()}")


@contextmanager
def running(starter: Starter, repository: Path, folder: Path, payload: bytes) -> Iterator[Running]:
    """A server from its start to its end.

    Raises:
        NotRun: It cannot run here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    how = starter(repository, folder, port)
    log = folder / "log"
    environment = {"PYTHONPATH": str(ROOT), **os.environ, **how.environment}
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            how.command, cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    server = Running(process, f"127.0.0.1:{port}")
    try:
        server.wait_ready(payload, log)
        server.ready_s = time.perf_counter() - began
        if how.computes:
            check_right(server.url, repository, payload)
        yield server
    finally:
        server.end()


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()


def _tail(log: Path) -> str:
    return " ".join(log.read_text("utf-8", errors="replace").split())[-300:]
