"""CUDA's few calls, against a stand-in; what this machine really lacks is told too."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest

from runtime.backends import cuda
from runtime.errors import BackendUnavailable, ResourceExhausted, TwinportError


def test_a_machine_without_a_driver_is_told_so_in_one_line():
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver")
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is missing")
    assert cuda.device_problem() == "no NVIDIA driver is installed (libcuda.so.1 is not here)"
    with pytest.raises(BackendUnavailable, match="no NVIDIA driver is installed"):
        cuda.gpu()


TOLERANT = """
from cuda.bindings import runtime as real
from runtime.backends import cuda

RESULTS = {
    "cudaGetDeviceProperties": real.cudaDeviceProp(),
    "cudaStreamCreateWithFlags": real.cudaStream_t(5),
    "cudaStreamEndCapture": real.cudaGraph_t(0),
    "cudaGraphInstantiate": real.cudaGraphExec_t(0),
}

def asked(what, call, *arguments):
    status, *_ = call(*arguments)
    assert status == real.cudaError_t.cudaErrorInsufficientDriver, what
    print(what.split()[0])
    return RESULTS.get(what.split()[0], 4096)

cuda._checked = asked
cuda.device_problem = lambda: None
cuda.gpu()
memory, device, stream = cuda.PinnedMemory(64), cuda.DeviceMemory(64), cuda.Stream()
assert stream.handle == 5
graph = stream.capture(lambda: stream.to_device(device, memory, 64))
stream.launch(graph)
stream.to_host(memory, device, 64)
stream.synchronize()
for item in (graph, stream, device, memory):
    item.close()
"""


def test_the_real_bindings_take_every_argument():
    """Without a driver each call ends with the same error, but not before it was understood."""
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is missing")
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver; the addresses here are made up")
    done = subprocess.run(
        [sys.executable, "-c", TOLERANT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 15


def test_a_gpu_that_answers_is_no_problem(standin):
    assert cuda.device_problem() is None
    assert str(cuda.gpu()) == "Stand-in (compute capability 8.9)"


def test_missing_bindings_are_told_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    problem = cuda.device_problem()
    assert problem.startswith("cuda-bindings is missing (")
    assert problem.endswith("; pip install 'cuda-bindings>=13'")


def test_a_driver_without_a_gpu_is_told(standin):
    standin.state.devices = 0
    assert cuda.device_problem() == "the NVIDIA driver finds no GPU"


def test_a_driver_that_is_too_old_is_told_in_cudas_words(standin):
    error = standin.cuda.cudaError_t.cudaErrorInsufficientDriver
    standin.state.failing["cudaGetDeviceCount"] = error
    assert cuda.device_problem() == (
        "the GPU cannot be used: stand-in text of cudaErrorInsufficientDriver "
        "(cudaErrorInsufficientDriver)"
    )


def test_pinned_memory_is_an_array_and_no_copy(standin):
    memory = cuda.PinnedMemory(64)
    array = memory.array(np.dtype("float32"), (2, 3))
    array[...] = np.arange(6).reshape(2, 3)
    assert standin.state.read(memory.address, 24, "host") == array.tobytes()
    assert memory.array(np.dtype("int64"), ()).shape == ()
    memory.close()
    memory.close()
    assert standin.state.held() == []


def test_copies_go_to_the_device_and_back(standin):
    source, target = cuda.PinnedMemory(16), cuda.PinnedMemory(16)
    device, stream = cuda.DeviceMemory(16), cuda.Stream()
    source.array(np.dtype("int32"), (4,))[...] = [1, 2, 3, 4]
    stream.to_device(device, source, 16)
    stream.to_host(target, device, 16)
    stream.synchronize()
    assert target.array(np.dtype("int32"), (4,)).tolist() == [1, 2, 3, 4]
    for item in (source, target, device, stream):
        item.close()
        item.close()
    assert standin.state.held() == []


def test_what_is_captured_runs_when_it_is_launched(standin):
    source, target = cuda.PinnedMemory(4), cuda.PinnedMemory(4)
    device, stream = cuda.DeviceMemory(4), cuda.Stream()

    def queue():
        stream.to_device(device, source, 4)
        stream.to_host(target, device, 4)

    graph = stream.capture(queue)
    for value in (7, 9):
        source.array(np.dtype("int32"), (1,))[...] = value
        stream.launch(graph)
        stream.synchronize()
        assert target.array(np.dtype("int32"), (1,)).tolist() == [value]
    graph.close()
    graph.close()
    for item in (source, target, device, stream):
        item.close()
    assert standin.state.held() == []


@pytest.mark.parametrize("mistake", ["synchronize", "allocate", "raise"])
def test_a_capture_that_is_spoilt_leaves_a_stream_that_works(standin, mistake):
    stream = cuda.Stream()

    def queue():
        if mistake == "synchronize":
            stream.synchronize()
        if mistake == "allocate":
            cuda.DeviceMemory(8)
        raise ValueError("no")

    with pytest.raises(ValueError if mistake == "raise" else TwinportError):
        stream.capture(queue)
    memory, device = cuda.PinnedMemory(4), cuda.DeviceMemory(4)
    stream.to_device(device, memory, 4)
    stream.synchronize()
    for item in (stream, memory, device):
        item.close()
    assert standin.state.held() == []


def test_an_error_has_the_call_and_cudas_words(standin):
    errors = standin.cuda.cudaError_t
    standin.state.failing["cudaHostAlloc"] = errors.cudaErrorInvalidValue
    with pytest.raises(TwinportError) as caught:
        cuda.PinnedMemory(4096)
    assert str(caught.value) == (
        "CUDA failed in cudaHostAlloc of 4,096 bytes: "
        "stand-in text of cudaErrorInvalidValue (cudaErrorInvalidValue)"
    )
    standin.state.failing["cudaMalloc"] = errors.cudaErrorMemoryAllocation
    with pytest.raises(ResourceExhausted, match="serve fewer models on this GPU"):
        cuda.DeviceMemory(4096)
