"""The stand-ins tell who breaks a rule; a runner that passes their tests has kept them."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnx import TensorProto, helper

X = np.array([[1, 2]], np.float32)


@pytest.fixture
def here():
    """Both stand-ins under the names of the real modules."""
    with runpy.run_path(str(Path(__file__).with_name("install.py")))["installed"]() as found:
        yield found


@pytest.fixture
def run(here):
    """Twice ``x``: an engine, its context, memory and a stream, with all rules kept so far."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    trt, cuda = here.tensorrt, here.cuda

    class Log(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, msg):
            self.lines.append(msg)

    log = Log()
    plan = trt._plan_bytes(model.SerializeToString(), [{"x": [[1, 2], [1, 2], [4, 2]]}])
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(
        trt.ExecutionContextAllocationStrategy.USER_MANAGED
    )
    context = engine.create_execution_context(config)
    stream = int(cuda.cudaStreamCreateWithFlags(cuda.cudaStreamNonBlocking)[1])
    x, y, scratch = (cuda.cudaMalloc(size)[1] for size in (32, 32, 4096))
    host = cuda.cudaHostAlloc(32, cuda.cudaHostAllocDefault)[1]
    cuda._state.write(host, X.tobytes(), "host")
    steps = {
        "memory": lambda: context.set_device_memory(scratch, 4096),
        "profile": lambda: context.set_optimization_profile_async(0, stream),
        "shape": lambda: context.set_input_shape("x", (1, 2)),
        "x": lambda: context.set_tensor_address("x", x),
        "infer": lambda: context.infer_shapes() == [],
        "y": lambda: context.set_tensor_address("y", y),
    }
    return SimpleNamespace(**locals())


def prepare(run, *without):
    for name, step in run.steps.items():
        if name not in without:
            step()


def run_to_the_end(run):
    run.context.execute_async_v3(run.stream)
    run.cuda.cudaStreamSynchronize(run.stream)


def copy_in(run):
    kind = run.cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
    run.cuda.cudaMemcpyAsync(run.x, run.host, X.nbytes, kind, run.stream)


def answer(run):
    return np.frombuffer(run.cuda._state.read(run.y, X.nbytes, "device"), np.float32)


def test_nothing_has_run_before_the_stream_was_waited_for(run):
    prepare(run)
    copy_in(run)
    assert run.context.execute_async_v3(run.stream)
    assert not np.array_equal(answer(run), 2 * X[0])
    run.cuda.cudaStreamSynchronize(run.stream)
    np.testing.assert_array_equal(answer(run), 2 * X[0])


@pytest.mark.parametrize(
    ("without", "text"),
    [
        ("memory", "no device memory"),
        ("x", "no address of x"),
        ("y", "no address of y"),
        ("infer", "shapes are not inferred"),
    ],
)
def test_a_step_that_lacks_is_an_error_of_the_run(run, without, text):
    prepare(run, without)
    assert not run.context.execute_async_v3(run.stream)
    assert text in run.log.lines[-1]


def test_a_shape_before_its_profile_is_a_misuse(run):
    with pytest.raises(run.cuda.Misuse, match="after the profile"):
        prepare(run, "profile")


def test_a_shape_outside_of_the_profile_and_one_that_lacks_are_told(run):
    prepare(run, "shape", "infer")
    assert run.context.infer_shapes() == ["x"]
    assert not run.context.set_input_shape("x", (5, 2))
    assert "outside of the profile" in run.log.lines[-1]


@pytest.mark.parametrize("which", ["x", "y", "scratch"])
def test_memory_that_was_given_back_is_not_used_again(run, which):
    prepare(run)
    run.cuda.cudaFree(getattr(run, which))
    with pytest.raises(run.cuda.Misuse, match="was given back"):
        run_to_the_end(run)


def test_addresses_of_the_host_are_none_of_the_device(run):
    with pytest.raises(run.cuda.Misuse, match="is no device memory"):
        run.context.set_tensor_address("x", run.host)


def capture(run):
    mode = run.cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    run.cuda.cudaStreamBeginCapture(run.stream, mode)
    run.context.execute_async_v3(run.stream)
    graph = run.cuda.cudaStreamEndCapture(run.stream)[1]
    return run.cuda.cudaGraphInstantiate(graph, 0)[1]


def test_a_capture_wants_a_run_before_it(run):
    prepare(run)
    with pytest.raises(run.cuda.Misuse, match="a run has to come between"):
        capture(run)


@pytest.mark.parametrize("change", ["shape", "address", "gone"])
def test_a_graph_of_a_context_that_changed_is_not_launched(run, change):
    prepare(run)
    run.context.execute_async_v3(run.stream)
    run.cuda.cudaStreamSynchronize(run.stream)
    graph = capture(run)
    if change == "shape":
        run.context.set_input_shape("x", (2, 2))
    if change == "address":
        run.context.set_tensor_address("x", run.y)
    if change == "gone":
        run.steps.clear()
        del run.context
    run.cuda.cudaGraphLaunch(graph, run.stream)
    with pytest.raises(run.cuda.Misuse, match="was changed or closed"):
        run.cuda.cudaStreamSynchronize(run.stream)


def test_waiting_within_a_capture_spoils_it(run):
    mode = run.cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    run.cuda.cudaStreamBeginCapture(run.stream, mode)
    errors = run.cuda.cudaError_t
    assert run.cuda.cudaStreamSynchronize(run.stream) == (errors.cudaErrorStreamCaptureUnsupported,)
    assert run.cuda.cudaStreamEndCapture(run.stream)[0] == errors.cudaErrorStreamCaptureInvalidated
