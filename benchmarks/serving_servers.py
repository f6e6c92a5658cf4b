"""The servers that ``serving.py`` compares: how each starts, is known to be ready, and ends.

Each listens on 127.0.0.1 alone and serves LeNet-5 with one thread in a call.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from protos import ModelInferResponse

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
    """

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)


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
        return Start([sys.executable, program, str(repository), transport, str(port), state])

    return start


def triton(python: str) -> Starter:
    """Triton of the ``nvidia-pytriton`` wheel in the environment of ``python``.

    The wheel has the Python backend alone; the model is ONNX Runtime called from it, one
    call for all requests that Triton's dynamic batching hands over.
    """

    def start(repository: Path, folder: Path, port: int) -> Start:
        packages = _packages(python)
        server = packages / "pytriton" / "tritonserver"
        if not server.is_dir():
            raise NotRun(f"{python} has no nvidia-pytriton")
        version = packages.parent.name.removeprefix("python")
        backends = folder / "backends"
        if not backends.exists():
            shutil.copytree(server / "backends", backends)
            stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
            shutil.copy(stub, backends / "python")
            _write_triton_model(folder / "models", repository)
        command = [
            str(server / "bin" / "tritonserver"), "--model-repository", str(folder / "models"),
            "--backend-directory", str(backends), "--allow-http", "false",
            "--grpc-address", "127.0.0.1", "--grpc-port", str(port), "--allow-gpu-metrics", "false",
            "--metrics-address", "127.0.0.1", "--metrics-port", str(free_port()),
        ]  # fmt: skip
        libraries = [str(packages / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
        return Start(
            command,
            {
                "LD_LIBRARY_PATH": ":".join(libraries),
                "PYTHONPATH": str(packages),
                "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
            },
        )

    return start


def mlserver(python: str) -> Starter:
    """MLServer in the environment of ``python``, adaptive batching on, no worker processes."""

    def start(repository: Path, folder: Path, port: int) -> Start:
        packages = _packages(python)
        if not (packages / "mlserver").is_dir():
            raise NotRun(f"{python} has no mlserver")
        _write_mlserver_model(folder, repository, port)
        program = str(Path(python).with_name("mlserver"))
        return Start([program, "start", str(folder)], {"PYTHONPATH": str(folder)})

    return start


def ray(_python: str) -> Starter:
    """Ray Serve, which is not run."""

    def start(_repository: Path, _folder: Path, _port: int) -> Start:
        raise NotRun(
            "its gRPC proxy listens on all interfaces whatever host it is given; "
            "this benchmark serves 127.0.0.1 alone"
        )

    return start


PEERS: Mapping[str, Callable[[str], Starter]] = {
    "triton": triton,
    "mlserver": mlserver,
    "ray": ray,
}


def _packages(python: str) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    try:
        found = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotRun(f"{python} cannot be run: {error}") from error
    return Path(found.stdout.strip())


_TRITON_CONFIG = """
name: "lenet5"
backend: "python"
max_batch_size: 64
input { name: "image" data_type: TYPE_FP32 dims: [1, 32, 32] }
output { name: "logits" data_type: TYPE_FP32 dims: [10] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""
_SESSION = """
import numpy as np
import onnxruntime as ort

def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
"""
_TRITON_MODEL = """
import os
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, args):
        folder = os.path.join(args["model_repository"], args["model_version"])
        self.session = session(os.path.join(folder, "model.onnx"))

    def execute(self, requests):
        images = [pb.get_input_tensor_by_name(each, "image").as_numpy() for each in requests]
        joined = images[0] if len(images) == 1 else np.concatenate(images)
        logits = self.session.run(["logits"], {"image": joined})[0]
        answers, start = [], 0
        for image in images:
            part = logits[start : start + len(image)]
            start += len(image)
            answers.append(pb.InferenceResponse([pb.Tensor("logits", part)]))
        return answers
"""
_MLSERVER_MODEL = """
import os
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class LeNet5(MLModel):
    async def load(self):
        self.session = session(os.path.join(os.path.dirname(__file__), "model.onnx"))
        return True

    async def predict(self, payload):
        image = NumpyCodec.decode_input(payload.inputs[0])
        logits = self.session.run(["logits"], {"image": image})[0]
        output = NumpyCodec.encode_output("logits", logits)
        return InferenceResponse(model_name=self.name, outputs=[output])
"""


def _write_triton_model(models: Path, repository: Path) -> None:
    version = models / "lenet5" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(_TRITON_CONFIG, encoding="utf-8")
    (version / "model.py").write_text(_SESSION + _TRITON_MODEL, encoding="utf-8")
    shutil.copy(repository / "lenet5" / "1" / "model.onnx", version)


def _write_mlserver_model(folder: Path, repository: Path, port: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    settings = f"""{{"host": "127.0.0.1", "http_port": {free_port()}, "grpc_port": {port},
        "metrics_port": {free_port()}, "parallel_workers": 0, "debug": false}}"""
    model = """{"name": "lenet5", "implementation": "lenet5_mlserver.LeNet5",
        "max_batch_size": 64, "max_batch_time": 0.001}"""
    (folder / "settings.json").write_text(settings, encoding="utf-8")
    (folder / "model-settings.json").write_text(model, encoding="utf-8")
    (folder / "lenet5_mlserver.py").write_text(_SESSION + _MLSERVER_MODEL, encoding="utf-8")
    shutil.copy(repository / "lenet5" / "1" / "model.onnx", folder)


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
        yield server
    finally:
        server.end()


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()


def _tail(log: Path) -> str:
    return " ".join(log.read_text("utf-8", errors="replace").split())[-300:]
