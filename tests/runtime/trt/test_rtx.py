"""TensorRT-RTX: the real library and files that it must not be given, then a stand-in."""

from __future__ import annotations

import enum
import shutil
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.errors import BackendUnavailable

PROBE = """
import sys
from pathlib import Path
from runtime.backends.factory import open_backend
from runtime.errors import TwinportError

for line in sys.stdin:
    backend, path = line.rstrip("\\n").split("\\t")
    try:
        open_backend(backend, Path(path)).close()
        print("loaded", flush=True)
    except TwinportError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
"""
BUILD = """
import sys
import tensorrt_rtx as trt

logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(0)
parser = trt.OnnxParser(network, logger)
assert parser.parse_from_file(sys.argv[1])
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("x", (1, 4), (4, 4), (8, 4))
config.add_optimization_profile(profile)
open(sys.argv[2], "wb").write(builder.build_serialized_network(network, config))
"""


def onnx_bytes():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def real_plan(tmp_path_factory):
    """A plan that the real library built, in a process of its own."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is missing; pip install tensorrt-rtx")
    folder = tmp_path_factory.mktemp("plan")
    (folder / "model.onnx").write_bytes(onnx_bytes())
    command = [sys.executable, "-c", BUILD, folder / "model.onnx", folder / "model.engine"]
    subprocess.run(command, check=True, timeout=120)
    return (folder / "model.engine").read_bytes()


CASES = {
    "foreign": (lambda plan: b"\x08\x0aonnx" * 100, "tensorrt_rtx",
                "RepositoryError: {path} is no TensorRT engine: it begins with b'\\x08\\non'"),
    "empty": (lambda plan: b"", "tensorrt_rtx", "RepositoryError: {path} is no TensorRT engine"),
    "header": (lambda plan: plan[:20], "tensorrt_rtx",
               "RepositoryError: {path} has 20 bytes; the engine is cut"),
    "truncated": (lambda plan: plan[:-1], "tensorrt_rtx", "RepositoryError: {path} has "),
    "longer": (lambda plan: plan + b"\0", "tensorrt_rtx", "RepositoryError: {path} has "),
    "flavour": (lambda plan: plan, "tensorrt",
                "RepositoryError: {path} is an engine of TensorRT-RTX, config.pbtxt wants"),
    "disguised": (lambda plan: b"ftrt" + plan[4:], "tensorrt_rtx",
                  "RepositoryError: {path} is an engine of TensorRT, config.pbtxt wants"),
    "older": (lambda plan: plan[:24] + bytes([1, 6, 0, 1]) + plan[28:], "tensorrt_rtx",
              "BackendUnavailable: the engine was built by TensorRT-RTX 1.6.0.1, installed is 1."),
    "sound": (lambda plan: plan, "tensorrt_rtx",
              "BackendUnavailable: an engine of TensorRT-RTX runs on a GPU only: no NVIDIA driver"),
    "garbled": (lambda plan: plan[:28] + bytes(len(plan) - 28), "tensorrt_rtx",
                "BackendUnavailable: an engine of TensorRT-RTX runs on a GPU only: no NVIDIA"),
}  # fmt: skip
ON_A_GPU = ("sound", "garbled")
"""What is told of these depends on the machine."""


@pytest.fixture(scope="module")
def told(real_plan, tmp_path_factory):
    """What one process says of every file; it lives on after each."""
    folder = tmp_path_factory.mktemp("files")
    asked = []
    for name, (change, backend, _) in CASES.items():
        (folder / name).write_bytes(change(real_plan))
        asked.append(f"{backend}\t{folder / name}\n")
    done = subprocess.run(
        [sys.executable, "-c", PROBE], input="".join(asked),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr}"
    return folder, dict(zip(CASES, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_file_that_cannot_run_here_is_one_clear_line_and_no_crash(told, name):
    if name in ON_A_GPU and shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    folder, lines = told
    assert lines[name].startswith(CASES[name][2].format(path=folder / name))


REFUSED = """
import sys
from pathlib import Path
from runtime.backends import trt, trt_memory
from runtime.backends.cuda import Gpu
from runtime.backends.factory import open_backend
from runtime.backends.plan import FLAVOURS
from runtime.backends.trt_library import load_library
from runtime.errors import RepositoryError

library = load_library(FLAVOURS["tensorrt_rtx"])
allocator = trt_memory.output_allocator(library, trt_memory.Allocation())
assert isinstance(allocator, library.IOutputAllocator)
trt.device_problem = lambda: None
trt.gpu = lambda: Gpu("none", (8, 9))
for path in sys.argv[1:]:
    try:
        open_backend("tensorrt_rtx", Path(path))
    except RepositoryError as error:
        print(error, flush=True)
"""


def test_what_the_real_library_says_of_a_plan_comes_with_its_refusal(real_plan, tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver; tests/tensorrt asks the library there")
    sound, garbled = tmp_path / "sound", tmp_path / "garbled"
    sound.write_bytes(real_plan)
    garbled.write_bytes(real_plan[:28] + bytes(len(real_plan) - 28))
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, sound, garbled],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the process ended with {done.returncode}: {done.stderr}"
    for path, line in zip((sound, garbled), done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{path} was refused by TensorRT-RTX: ")
        assert "Error Code 1: " in line
        assert "[checkMacros.cpp" not in line


@pytest.fixture
def rtx(standin, monkeypatch, tmp_path):
    """The stand-in as the other flavour: its names beyond those of full TensorRT too."""
    module = standin.tensorrt
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    targets = {name: value for value, name in enumerate(("NONE", "SM75", "SM89", "SM120"))}
    kinds = enum.Enum("DynamicShapesKernelSpecializationStrategy", "LAZY EAGER NONE")
    graphs = enum.Enum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE")
    for name, value in {
        "__version__": "1.7.1.116",
        "ComputeCapability": enum.Enum("ComputeCapability", targets),
        "DynamicShapesKernelSpecializationStrategy": kinds,
        "CudaGraphStrategy": graphs,
    }.items():
        monkeypatch.setattr(module, name, value, raising=False)
    path = tmp_path / "model.engine"
    profiles = [{"x": [[1, 4], [4, 4], [8, 4]]}]
    path.write_bytes(
        module._plan_bytes(onnx_bytes(), profiles, magic=b"vtrt", version=(1, 7, 1, 116))
    )
    return path


def test_the_other_flavour_runs_the_same_way(rtx, standin):
    backend = open_backend("tensorrt_rtx", rtx)
    for count in (2, 2, 2, 3):
        x = np.full((count, 4), count, np.float32)
        np.testing.assert_allclose(backend.infer({"x": x})["y"], np.full((count, 3), 4 * count))
    identity = backend.identity
    assert (identity.backend, identity.provider) == ("tensorrt_rtx", "TensorRT-RTX")
    assert identity.library == "tensorrt_rtx 1.7.1.116"
    backend.close()
    assert standin.state.held() == []


def test_its_kernels_stay_those_of_the_replay_and_it_captures_graphs_itself(rtx, standin):
    made = []
    real = standin.tensorrt.ICudaEngine.create_runtime_config

    def create(self):
        made.append(real(self))
        return made[-1]

    standin.tensorrt.ICudaEngine.create_runtime_config = create
    backend = open_backend("tensorrt_rtx", rtx)
    for _ in range(4):
        backend.infer({"x": np.ones((2, 4), np.float32)})
    assert backend.captures
    backend.close()
    assert len(made) == 1
    assert made[0].dynamic_shapes_kernel_specialization_strategy.name == "NONE"
    assert made[0].cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    assert "cudaStreamBeginCapture" not in standin.state.names()


def test_an_older_engine_does_not_run_whatever_it_was_built_for(rtx):
    plan = rtx.read_bytes()
    rtx.write_bytes(plan[:24] + bytes([1, 6, 0, 1]) + plan[28:])
    with pytest.raises(BackendUnavailable, match="which runs engines of the same version only"):
        open_backend("tensorrt_rtx", rtx, BackendOptions(newer_library=True))


def test_a_gpu_without_a_target_is_told_with_the_way_out(rtx, standin):
    standin.state.capability = (9, 0)
    with pytest.raises(BackendUnavailable) as caught:
        open_backend("tensorrt_rtx", rtx)
    assert str(caught.value) == (
        "TensorRT-RTX 1.7.1.116 has no target for Stand-in (compute capability 9.0), only for "
        "7.5, 8.9, 12.0; build an engine of full TensorRT for this GPU (--flavour tensorrt)"
    )
    assert standin.state.held() == []
