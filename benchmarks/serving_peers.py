"""Other servers that ``serving.py`` compares with, each in an environment of its own.

All serve LeNet-5 by the same artifact, called through ONNX Runtime with one thread, and
batch as their makers say. What each needs installed:

| peer | packages |
|---|---|
| triton | ``nvidia-pytriton onnxruntime numpy``: Triton itself, with its Python backend |
| mlserver | ``mlserver onnxruntime`` |
| ray | ``ray[serve] onnxruntime grpcio-tools`` |

Ray listens on all interfaces whatever host it is given, so it runs only where there is none
but the loopback: ``unshare --net -- sh -c 'ip link set lo up; exec python ...'``.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from serving_servers import ROOT, NotRun, Start, Starter, free_port


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


def ray(python: str) -> Starter:
    """Ray Serve in the environment of ``python``: its gRPC proxy, ``serve.batch``, one replica."""

    def start(repository: Path, folder: Path, port: int) -> Start:
        packages = _packages(python)
        if not (packages / "ray" / "serve").is_dir():
            raise NotRun(f"{python} has no ray[serve]")
        if others := [name for _, name in socket.if_nameindex() if name != "lo"]:
            raise NotRun(
                f"it would listen on {', '.join(others)} too, whatever host it is given; run the "
                "benchmark without them: unshare --net -- sh -c 'ip link set lo up; exec ...'"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _write_messages(python, folder)
        (folder / "lenet5_ray.py").write_text(_SESSION + _RAY_MODEL, encoding="utf-8")
        shutil.copy(repository / "lenet5" / "1" / "model.onnx", folder)
        # Sockets have long names below its folder, and names of sockets are short.
        work = Path(tempfile.mkdtemp(prefix="ray"))
        return Start(
            [python, "lenet5_ray.py", str(port), str(free_port()), str(work)],
            {
                "PYTHONPATH": str(folder),
                "PATH": f"{Path(python).parent}:{os.environ['PATH']}",
                "RAY_USAGE_STATS_ENABLED": "0",
            },
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


_RAY_MODEL = """
import os, shutil, signal, sys, threading
import inference_pb2 as messages
import ray
from ray import serve
from ray.serve.config import gRPCOptions, HTTPOptions

port, http_port, work = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 1})
class LeNet5:
    def __init__(self, model):
        self.session = session(model)

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.001)
    async def logits_of(self, images):
        joined = images[0] if len(images) == 1 else np.concatenate(images)
        logits = self.session.run(["logits"], {"image": joined})[0]
        ends = np.cumsum([len(image) for image in images])
        return np.split(logits, ends[:-1])

    async def ModelInfer(self, request):
        shape = list(request.inputs[0].shape)
        image = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(shape)
        logits = await self.logits_of(image)
        answer = messages.ModelInferResponse(
            model_name="lenet5", model_version="1", id=request.id
        )
        answer.outputs.add(name="logits", datatype="FP32", shape=logits.shape)
        answer.raw_output_contents.append(logits.tobytes())
        return answer

if __name__ == "__main__":
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    ray.init(
        num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", _temp_dir=work,
        configure_logging=False, object_store_memory=100 * 2**20,
    )
    adder = "inference_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=port, grpc_servicer_functions=[adder]),
    )
    serve.run(LeNet5.bind(os.path.abspath("model.onnx")), name="lenet5")
    ended.wait()
    serve.shutdown()
    ray.shutdown()
    shutil.rmtree(work, ignore_errors=True)
"""


def _write_messages(python: str, folder: Path) -> None:
    """The modules that protoc makes: Ray pickles messages, which wants an importable class."""
    protos = ROOT / "protos"
    command = [
        python, "-m", "grpc_tools.protoc", f"--proto_path={protos}", f"--python_out={folder}",
        f"--grpc_python_out={folder}", "inference.proto", "model_config.proto",
    ]  # fmt: skip
    made = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if made.returncode:
        raise NotRun(f"{python} makes no messages: {' '.join(made.stderr.split())[-200:]}")


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
