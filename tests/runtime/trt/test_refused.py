"""What the runner refuses, and what a failed call leaves, over a stand-in."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from runtime.backends.base import BackendOptions
from runtime.errors import (
    BackendUnavailable,
    InvalidInput,
    RepositoryError,
    ResourceExhausted,
    TwinportError,
    Unavailable,
)

LARGE = {"x": [[1, 4], [64, 4], [64, 4]]}
X = np.ones((1, 4), np.float32)


def test_memory_that_the_allocator_cannot_get_is_an_error_of_the_call(load, standin, nonzero):
    backend = load(nonzero, [{"x": [[1], [8], [4096]]}], unsized=["where"])
    backend.infer({"x": np.ones(8, np.float32)})
    big = np.ones(4096, np.float32)
    backend.infer({"x": np.zeros(4096, np.float32)})
    standin.state.failing["cudaMalloc"] = standin.cuda.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(ResourceExhausted, match="cudaMalloc of 32,768 bytes"):
        backend.infer({"x": big})
    np.testing.assert_array_equal(backend.infer({"x": big})["where"], [np.arange(4096)])


def test_closing_gives_everything_back_and_may_be_done_twice(load, standin, rows, check_linear):
    backend = load()
    for seed in range(3):
        check_linear(backend, 2, seed)
    backend.close()
    assert standin.state.held() == []
    assert [engine() for engine in standin.state.engines] == [None]
    backend.close()
    for use in (lambda: backend.infer({"x": rows(1)}), backend.information):
        with pytest.raises(Unavailable, match="the engine is closed"):
            use()


def test_the_logger_that_plugins_were_given_outlives_the_engine(load, standin, monkeypatch):
    given = []
    monkeypatch.setattr(
        standin.tensorrt,
        "init_libnvinfer_plugins",
        lambda logger, namespace: given.append(weakref.ref(logger)),
    )
    load().close()
    gc.collect()
    assert given[0]() is not None


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({}, "input 'x' is missing; the engine wants float32 [batch, 4]"),
        ({"x": X, "z": X}, "input 'z' is not known; the engine has x"),
        (
            {"x": X.astype(np.float64)},
            "input 'x' has data type float64; the engine wants float32 [batch, 4]",
        ),
    ],
)
def test_inputs_of_another_name_or_type_are_refused(load, arrays, text):
    with pytest.raises(InvalidInput) as caught:
        load().infer(arrays)
    assert str(caught.value) == text


def test_an_output_that_is_not_known_is_refused(load, rows):
    with pytest.raises(InvalidInput, match="output 'z' is not known; the engine has y, total"):
        load().infer({"x": rows(1)}, ["z"])


@pytest.mark.parametrize(
    ("described", "text"),
    [
        ({"types": {"y": "BF16"}}, "'y' of the engine has the type BF16"),
        ({"types": {"x": "FP8"}}, "'x' of the engine has the type FP8"),
        ({"layouts": {"x": "CHW32"}}, "'x' of the engine has the layout CHW32"),
        ({"broken": True}, "refused by TensorRT: IRuntime::deserialize: Magic tag"),
    ],
)
def test_an_engine_that_cannot_be_served_is_refused(load, standin, described, text):
    with pytest.raises(RepositoryError) as caught:
        load(**described)
    assert text in str(caught.value)
    assert standin.state.held() == []


def test_a_fault_while_closing_is_a_line_in_the_log(load, standin, caplog):
    backend = load()
    standin.state.failing["cudaFree"] = standin.cuda.cudaError_t.cudaErrorIllegalAddress
    backend.close()
    assert "an engine left memory behind: CUDA failed in cudaFree" in caplog.text


def test_a_context_that_is_not_made_is_an_error_with_the_librarys_words(load, standin):
    with pytest.raises(TwinportError, match="no execution context could be made: no context"):
        load(no_context=True)
    assert standin.state.held() == []


def test_a_run_that_fails_is_an_error_and_leaves_nothing_under_way(load, standin, rows):
    with pytest.raises(TwinportError, match=r"the engine could not run: .*an error of the engine"):
        load(no_run=True).infer({"x": rows(1)})
    assert standin.state.streams[0].waiting == []


def test_memory_that_could_not_grow_is_forgotten(load, standin, rows, check_linear):
    backend = load(profiles=(LARGE,))
    check_linear(backend, 2)
    standin.state.failing["cudaMalloc"] = standin.cuda.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(ResourceExhausted):
        backend.infer({"x": rows(64)})
    for seed in range(4):
        check_linear(backend, 2, seed)


@pytest.mark.parametrize(
    "call", ["cudaMalloc", "cudaHostAlloc", "cudaMemcpyAsync", "cudaStreamSynchronize"]
)
def test_an_error_of_cuda_names_the_call_and_the_next_call_works(
    load, standin, call, rows, check_linear
):
    backend = load()
    standin.state.failing[call] = standin.cuda.cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(TwinportError) as caught:
        backend.infer({"x": rows(2)})
    assert str(caught.value).startswith(f"CUDA failed in {call}")
    assert str(caught.value).endswith(
        "stand-in text of cudaErrorIllegalAddress (cudaErrorIllegalAddress)"
    )
    check_linear(backend, 2, seed=1)


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaStreamCreateWithFlags"])
def test_an_error_while_loading_leaves_nothing_behind(load, standin, call):
    standin.state.failing[call] = standin.cuda.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(ResourceExhausted, match=f"CUDA failed in {call}"):
        load()
    assert standin.state.held() == []


def test_code_in_a_plan_runs_only_where_it_is_allowed(load, check_linear):
    with pytest.raises(RepositoryError, match=r"which is not allowed; .*--engine-code"):
        load(host_code=True, options=BackendOptions(newer_library=True))
    check_linear(load(host_code=True, options=BackendOptions(engine_code=True)), 2)


@pytest.mark.parametrize("version", [(11, 3, 0, 9), (10, 16, 1, 11)])
def test_an_older_plan_runs_where_it_was_built_to(load, version, check_linear):
    with pytest.raises(BackendUnavailable, match="engines of the same version only"):
        load(version=version)
    check_linear(load(version=version, options=BackendOptions(newer_library=True)), 2)


@pytest.mark.parametrize("version", [(11, 4, 1, 2), (8, 6, 1, 6), (12, 0, 0, 1)])
def test_a_newer_plan_and_one_of_long_ago_do_not_run(load, version):
    with pytest.raises(BackendUnavailable) as caught:
        load(version=version, options=BackendOptions(newer_library=True))
    built = ".".join(map(str, version))
    assert str(caught.value).startswith(
        f"the engine was built by TensorRT {built}, installed is 11.4.0.106, "
    )


def test_no_gpu_is_said_before_the_library_is_asked(load, standin):
    standin.state.devices = 0
    with pytest.raises(BackendUnavailable) as caught:
        load()
    assert str(caught.value) == (
        "an engine of TensorRT runs on a GPU only: the NVIDIA driver finds no GPU"
    )
