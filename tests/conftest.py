"""A small repository with models whose answers NumPy knows, for every test that serves."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.error_pool import ErrorPool
from runtime.golden import FILE_NAME as GOLDEN_FILE
from runtime.golden import Case, Golden, Kept, golden_to_bytes
from runtime.layout import CONFIG_FILE
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import Artifact, Evidence, Manifest, Source, manifest_to_text
from runtime.model_config import ModelFacts, config_to_write
from runtime.tensors import TensorSpec

# Before torch is imported, and for every program that a test starts: threads that wait for
# each other in tiny operators cost more than they compute, several times so on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests that import ONNX Runtime by themselves send nobody a report, either.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A shell without job control starts what it puts in the background deaf to Ctrl-C, and so would
# be every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRE_TOOLS = "TWINPORT_REQUIRE_TOOLS"
"""Set where every tool of the system must be there, so that no test is skipped for one."""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose tool is missing, with the reason; fail it where tools are required."""
    for mark in item.iter_markers("needs_tool"):
        name, cure = mark.args
        if shutil.which(name) is None:
            skip_for_tool(f"{name} is missing; {cure}")


def skip_for_tool(reason: str) -> NoReturn:
    """Skip the test for a tool that is not there; fail it where tools are required."""
    if os.environ.get(REQUIRE_TOOLS):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def tensorrt_stubs() -> Path:
    """The folder with the stubs of the real TensorRT that `make stubs` writes."""
    folder = Path(__file__).parents[1] / "build" / "stubs"
    if not (folder / "tensorrt" / "__init__.pyi").is_file():
        skip_for_tool("the stubs of TensorRT are missing; make stubs")
    return folder


WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
WIDE = np.tile(WEIGHT, (4096, 1)) / 64
TURN = np.linalg.qr(np.random.RandomState(0).standard_normal((256, 256)))[0].astype(np.float32)
TYPES = {
    "float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32,
    "string": TensorProto.STRING,
}  # fmt: skip


@dataclass(frozen=True)
class Toy:
    """A model that a test can serve: its graph, and the same in NumPy."""

    nodes: list[Any]
    weights: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    samples: dict[str, Any]
    compute: Callable[[dict[str, Any]], dict[str, Any]] | None
    """Answers in the type of the inputs; none where there can be no evidence."""
    on_request: tuple[str, ...] = ()
    ranges: tuple[tuple[str, tuple[int, int]], ...] = ()


def _rows(count: int, width: int) -> Any:
    return np.random.RandomState(1).standard_normal((count, width)).astype(np.float32)


def linear_toy() -> Toy:
    """``y = x @ WEIGHT``, batches up to 8; the sum of each row only on request."""
    spec = TensorSpec("x", "float32", ("batch", 4))
    outputs = TensorSpec("y", "float32", ("batch", 3)), TensorSpec("total", "float32", ("batch",))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("ReduceSum", ["y", "axis"], ["total"], keepdims=0),
    ]

    def compute(arrays: dict[str, Any]) -> dict[str, Any]:
        y = arrays["x"] @ WEIGHT.astype(arrays["x"].dtype)
        return {"y": y, "total": y.sum(1)}

    weights = {"w": WEIGHT, "axis": np.array([1])}
    return Toy(nodes, weights, (spec,), outputs, 8, {"x": _rows(16, 4)}, compute, ("total",))


def wide_toy() -> Toy:
    """``y = x @ WIDE``, batches up to 8 of rows with 64 KiB each."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    spec = TensorSpec("x", "float32", ("batch", len(WIDE)))

    def compute(arrays: dict[str, Any]) -> dict[str, Any]:
        return {"y": arrays["x"] @ WIDE.astype(arrays["x"].dtype)}

    outputs = (TensorSpec("y", "float32", ("batch", 3)),)
    return Toy(nodes, {"w": WIDE}, (spec,), outputs, 8, {"x": _rows(16, len(WIDE))}, compute)


def strings_toy() -> Toy:
    """Gives text back as it came; text cannot be kept as evidence."""
    nodes = [helper.make_node("Identity", ["text"], ["same"])]
    spec, same = (TensorSpec(name, "string", ("n",)) for name in ("text", "same"))
    return Toy(nodes, {}, (spec,), (same,), 0, {}, None)


def slow_toy() -> Toy:
    """``x @ TURN ** times``: runs as long as the request says, about 0.1 ms a time."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("MatMul", ["state", "turn"], ["turned"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [None, 256]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("turned", TensorProto.FLOAT, [None, 256]),
        ],
    )
    nodes = [helper.make_node("Loop", ["times", "", "x"], ["y"], body=body)]
    spec = TensorSpec("x", "float32", ("rows", 256)), TensorSpec("times", "int64", ())

    def compute(arrays: dict[str, Any]) -> dict[str, Any]:
        turn = TURN.astype(arrays["x"].dtype)
        return {"y": arrays["x"] @ np.linalg.matrix_power(turn, int(arrays["times"]))}

    samples = {"x": _rows(128, 256), "times": np.array(2)}
    output = TensorSpec("y", "float32", ("rows", 256))
    ranges = (("rows", (1, 512)),)
    return Toy(nodes, {"turn": TURN}, spec, (output,), 0, samples, compute, (), ranges)


def mixture_toy() -> Toy:
    """``y = x @ WEIGHT``; layer 0 calls the expert of the highest ``y``, layer 1 of the lowest."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    for layer, reduce in enumerate(("ReduceMax", "ReduceMin")):
        names = [f"{name}{layer}" for name in ("best", "is", "int", "load")]
        nodes += [
            helper.make_node(reduce, ["y", "axis"], names[:1], keepdims=1),
            helper.make_node("Equal", ["y", names[0]], names[1:2]),
            helper.make_node("Cast", names[1:2], names[2:3], to=TensorProto.INT32),
            helper.make_node("Unsqueeze", [names[2], "axis"], names[3:]),
        ]
    nodes.append(helper.make_node("Concat", ["load0", "load1"], ["expert_load"], axis=1))
    spec = TensorSpec("x", "float32", ("batch", 4))
    outputs = (
        TensorSpec("y", "float32", ("batch", 3)),
        TensorSpec("expert_load", "int32", ("batch", 2, 3)),
    )

    def compute(arrays: dict[str, Any]) -> dict[str, Any]:
        y = arrays["x"] @ WEIGHT.astype(arrays["x"].dtype)
        load = np.stack([y == y.max(1, keepdims=True), y == y.min(1, keepdims=True)], axis=1)
        return {"y": y, "expert_load": load.astype(np.int32)}

    weights = {"w": WEIGHT, "axis": np.array([1])}
    samples = {"x": _rows(16, 4)}
    return Toy(nodes, weights, (spec,), outputs, 8, samples, compute, ("expert_load",))


TOYS = {
    "linear": linear_toy, "wide": wide_toy, "strings": strings_toy, "slow": slow_toy,
    "mixture": mixture_toy,
}  # fmt: skip


def _value_info(spec: TensorSpec) -> Any:
    return helper.make_tensor_value_info(spec.name, TYPES[spec.dtype], list(spec.shape))


def _onnx_bytes(toy: Toy, name: str) -> bytes:
    graph = helper.make_graph(
        toy.nodes,
        name,
        [_value_info(spec) for spec in toy.inputs],
        [_value_info(spec) for spec in toy.outputs],
        [numpy_helper.from_array(value, key) for key, value in toy.weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _golden(toy: Toy) -> Golden:
    """Truth in float64, the yardstick in float32; both by NumPy."""
    assert toy.compute is not None
    wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in toy.samples.items()}
    truths, narrow = toy.compute(wide), toy.compute(toy.samples)
    scales = {}
    for name, truth in truths.items():
        pool = ErrorPool(rows=toy.max_batch_size > 0)
        pool.add(narrow[name], truth, narrow[name])
        scales[name, "random"] = pool.scale()
    kept = {name: Kept(truth, truth.shape) for name, truth in truths.items()}
    case = Case("random", False, toy.samples, kept)
    return Golden(toy.max_batch_size > 0, (case,), scales)


def write_toy(
    repository: Path,
    kind: str = "linear",
    *,
    name: str | None = None,
    version: int = 1,
    manifest: bool = True,
    **changes: Any,
) -> Path:
    """Write one version as an export would; returns its folder.

    Args:
        repository: Where to; the model's folder is made.
        kind: One of ``TOYS``.
        name: The model's name; that of the kind where none is given.
        version: Its number.
        manifest: Whether manifest and evidence are written; else only the graph is.
        changes: Fields of ``Toy`` to replace: ``samples`` in the evidence, others in the
            graph alone, so that the proof fails.
    """
    toy, label = TOYS[kind](), name or kind
    folder = repository / label / str(version)
    folder.mkdir(parents=True)
    data = _onnx_bytes(replace(toy, **changes), label)
    (folder / "model.onnx").write_bytes(data)
    if not manifest:
        return folder
    facts = ModelFacts(
        label, "onnxruntime", "model.onnx", toy.max_batch_size, toy.inputs, toy.outputs
    )
    text = config_to_write(repository / label / CONFIG_FILE, facts)
    if text is not None:
        (repository / label / CONFIG_FILE).write_text(text)
    evidence = None
    if toy.compute is not None:
        proved = replace(toy, samples=changes.get("samples", toy.samples))
        golden = golden_to_bytes(_golden(proved))
        (folder / GOLDEN_FILE).write_bytes(golden)
        evidence = Evidence(GOLDEN_FILE, hashlib.sha256(golden).hexdigest(), 16)
    record = Manifest(
        name=label, version=version, created="2025-01-01T00:00:00Z",
        source=Source("toys:make", "Toy", 12),
        artifact=Artifact("model.onnx", hashlib.sha256(data).hexdigest(), "onnx", "fp32", 18),
        inputs=toy.inputs, outputs=toy.outputs, ranges=dict(toy.ranges),
        max_batch_size=toy.max_batch_size, module_map={}, proofs=(), evidence=evidence,
        on_request=toy.on_request,
    )  # fmt: skip
    (folder / MANIFEST_FILE).write_text(manifest_to_text(record))
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty model repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


@pytest.fixture(name="write_toy")
def write_toy_fixture(repository: Path) -> Callable[..., Path]:
    """``write_toy`` into the test's repository."""
    return lambda *args, **kwargs: write_toy(repository, *args, **kwargs)


@pytest.fixture(scope="session")
def toys() -> dict[str, Toy]:
    """The models by kind, to compute what a server should answer."""
    return {kind: make() for kind, make in TOYS.items()}


@pytest.fixture(scope="session")
def toy_writer() -> Callable[..., Path]:
    """``write_toy`` into any repository, for servers that several tests share."""
    return write_toy


@dataclass
class ServerProcess:
    """A server in a process of its own.

    Attributes:
        lines: What it printed so far, one item a line.
        log: What it wrote to stderr.
    """

    process: subprocess.Popen[str]
    log: Path
    lines: list[str] = field(default_factory=list)
    address: str = ""
    metrics: str = ""

    def wait_for(self, text: str) -> None:
        """Read on until a line holds a text; fails where the process ends before."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if "listening on" in line:
                self.address = line.split()[-1]
            if "metrics at" in line:
                self.metrics = line.split()[-1]
            if text in line:
                return
        raise AssertionError(f"the server ended: {self.log.read_text()}")

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Send a signal and wait; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Start ``python -m runtime REPOSITORY`` on a free port and wait for a line of its output."""
    started: list[ServerProcess] = []

    def start(
        repository: Path,
        *options: str,
        program: tuple[str, ...] = ("-m", "runtime"),
        until: str = "models ready",
    ) -> ServerProcess:
        folder = tmp_path_factory.mktemp("server")
        log = folder / "stderr"
        command = [sys.executable, *program, str(repository), "--port", "0"]
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [*command, "--state", str(folder / "state"), *options],
                stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        server = ServerProcess(process, log)
        started.append(server)
        server.wait_for(until)
        return server

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()
        assert server.process.stdout is not None
        server.process.stdout.close()
