"""The calls of the runner and its answers, over a stand-in: no results of TensorRT."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import (
    InvalidInput,
)

SMALL = {"x": [[1, 4], [4, 4], [8, 4]]}
LARGE = {"x": [[1, 4], [64, 4], [64, 4]]}


def test_an_engine_answers_and_says_what_it_is(load, check_linear):
    backend = load()
    check_linear(backend, 3)
    assert str(backend.inputs["x"]) == "float32 [batch, 4]"
    assert [str(spec) for spec in backend.outputs.values()] == [
        "float32 [batch, 3]", "float32 [batch]",
    ]  # fmt: skip
    identity = backend.identity
    assert (identity.backend, identity.provider) == ("tensorrt", "TensorRT")
    assert identity.device == "Stand-in (compute capability 8.9)"
    assert identity.library == "tensorrt 11.4.0.106"


def test_the_calls_come_in_the_order_that_tensorrt_wants(load, standin, rows):
    backend = load()
    standin.state.calls.clear()
    backend.infer({"x": rows(2)}, ["y"])
    order = [name for name in standin.state.names() if "Alloc" not in name and "Malloc" not in name]
    assert order == [
        "set_optimization_profile_async",
        "set_input_shape",
        "set_tensor_address",
        "infer_shapes",
        "set_tensor_address",
        "set_tensor_address",
        "cudaMemcpyAsync",
        "execute_async_v3",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
    ]


def test_all_work_is_on_one_stream_that_waits_for_no_other(load, standin, check_linear, calls_of):
    first, second = load(), load()
    check_linear(first, 2)
    check_linear(second, 2)
    assert calls_of("cudaStreamCreateWithFlags") == [(standin.cuda.cudaStreamNonBlocking,)] * 2
    streams = {arguments[-1] for arguments in calls_of("cudaMemcpyAsync")}
    assert len(streams) == 2
    assert 0 not in streams


def test_without_a_wait_the_answer_is_wrong(load, monkeypatch, rows, check_linear):
    backend, x = load(), rows(2)
    with monkeypatch.context() as patched:
        patched.setattr("runtime.backends.cuda.Stream.synchronize", lambda self: None)
        unawaited = backend.infer({"x": x})["y"]
    assert not np.allclose(unawaited, backend.infer({"x": x})["y"])
    check_linear(backend, 2)


def test_only_the_outputs_that_are_wanted_are_copied(load, standin, rows, calls_of):
    backend = load()
    standin.state.calls.clear()
    assert set(backend.infer({"x": rows(2)}, ["total"])) == {"total"}
    kinds = [arguments[3].name for arguments in calls_of("cudaMemcpyAsync")]
    assert kinds == ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"]


def test_answers_belong_to_the_caller(load, rows, check_linear):
    backend = load()
    first = backend.infer({"x": rows(2, seed=1)})["y"]
    kept = first.copy()
    backend.infer({"x": rows(2, seed=2)})
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    check_linear(backend, 2)


def test_the_smallest_profile_that_fits_is_chosen(load, check_linear, calls_of):
    backend = load(profiles=(LARGE, SMALL))
    for count in (2, 8, 9, 3):
        check_linear(backend, count)
    assert calls_of("set_optimization_profile_async") == [(1,), (0,), (1,)]


def test_a_batch_that_no_profile_takes_names_their_ranges(load, rows, check_linear):
    backend = load(profiles=(SMALL, LARGE))
    with pytest.raises(InvalidInput) as caught:
        backend.infer({"x": rows(65)})
    assert str(caught.value) == (
        "no profile of the engine takes x [65, 4]; "
        "wanted x [1, 4] to [8, 4]; or x [1, 4] to [64, 4]"
    )
    check_linear(backend, 64)


def test_buffers_grow_and_are_used_again(load, check_linear, calls_of):
    backend = load(profiles=(LARGE,))
    for count in (64, 1, 40, 64):
        check_linear(backend, count, seed=count)
    before = len(calls_of("cudaMalloc"))
    check_linear(backend, 50)
    assert len(calls_of("cudaMalloc")) == before
    # Three tensors and the scratch memory, on each side once.
    assert before == 4
    assert len(calls_of("cudaHostAlloc")) == 3


def test_a_shape_tensor_lives_on_the_host_and_is_read_before_the_run(load, calls_of, expand):
    values = {"sizes": [[[1, 2], [3, 2], [9, 2]]]}
    backend = load(expand, [{}], values=values)
    x = np.array([[1, 2]], np.float32)
    for count in (3, 4, 3, 3, 3):
        answers = backend.infer({"x": x, "sizes": np.array([count, 2])})
        np.testing.assert_array_equal(answers["y"], np.repeat(x, count, 0))
    # What is read while queueing cannot be captured.
    assert calls_of("cudaStreamBeginCapture") == []
    with pytest.raises(InvalidInput, match=r"wanted .*sizes \[2\] to \[2\] with values \[1, 2\]"):
        backend.infer({"x": x, "sizes": np.array([10, 2])})


def test_sizes_that_only_the_run_tells_come_through_the_allocator(load, calls_of, nonzero):
    backend = load(nonzero, [{"x": [[1], [8], [4096]]}], unsized=["where"])
    for count in (3, 300, 2, 2, 2, 2000):
        x = np.tile(np.array([0, 1.5], np.float32), count)
        answers = backend.infer({"x": x})
        np.testing.assert_array_equal(answers["where"], [np.flatnonzero(x)])
        np.testing.assert_array_equal(answers["twice"], x + x)
    np.testing.assert_array_equal(
        backend.infer({"x": np.zeros(5, np.float32)}, ["where"])["where"], np.zeros((1, 0))
    )
    assert calls_of("cudaGraphLaunch") == []


def test_the_inspector_gives_the_layers(load):
    assert load().information()["Layers"] == ["multiply", "ReduceSum"]
