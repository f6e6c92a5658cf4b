"""Calls that are captured and replayed, over a stand-in: no results of TensorRT."""

from __future__ import annotations

import logging

import pytest

from runtime.backends.trt_graphs import LIMIT

SMALL = {"x": [[1, 4], [4, 4], [8, 4]]}
LARGE = {"x": [[1, 4], [64, 4], [64, 4]]}


def test_a_shape_that_comes_again_is_replayed_with_new_inputs(
    load, standin, check_linear, calls_of
):
    backend = load()
    for seed in range(5):
        check_linear(backend, 3, seed)
    assert len(calls_of("cudaGraphInstantiate")) == 1
    assert len(calls_of("cudaGraphLaunch")) == 3
    standin.state.calls.clear()
    check_linear(backend, 3, seed=9)
    assert "execute_async_v3" not in standin.state.names()


def test_graphs_of_several_shapes_and_plain_runs_live_beside_each_other(
    load, rows, check_linear, calls_of
):
    backend = load(profiles=(SMALL, LARGE))
    backend.infer({"x": rows(64)})
    for turn in range(4):
        for count in (2, 3, 20):
            check_linear(backend, count, seed=10 * turn + count)
        check_linear(backend, 5 + turn)
    assert len(calls_of("cudaGraphLaunch")) == 6


def test_graphs_are_dropped_when_a_buffer_moves(load, standin, check_linear, calls_of):
    backend = load(profiles=(LARGE,))
    for seed in range(3):
        check_linear(backend, 2, seed)
    check_linear(backend, 64)
    for seed in range(3):
        check_linear(backend, 2, seed)
    assert len(calls_of("cudaGraphInstantiate")) == 2
    assert len([graph for graph in standin.state.graphs if graph.live]) == 1


def test_only_so_many_graphs_are_kept_and_those_in_use_stay(
    load, standin, monkeypatch, rows, check_linear, calls_of
):
    monkeypatch.setattr("runtime.backends.trt_graphs.STALE_CALLS", 50)
    backend = load(profiles=(LARGE,))
    backend.infer({"x": rows(64)})
    for count in range(1, LIMIT + 4):
        check_linear(backend, count)
        check_linear(backend, count)
    assert len(calls_of("cudaGraphInstantiate")) == LIMIT
    for turn in range(4 * LIMIT):
        check_linear(backend, 1 + turn % LIMIT)
    check_linear(backend, LIMIT + 1)
    assert len(calls_of("cudaGraphInstantiate")) == LIMIT
    for turn in range(50):
        check_linear(backend, 1 + turn % 2)
    for seed in range(3):
        check_linear(backend, LIMIT + 1, seed)
    assert len(calls_of("cudaGraphInstantiate")) == LIMIT + 1
    assert len([graph for graph in standin.state.graphs if graph.live]) == LIMIT
    launched = len(calls_of("cudaGraphLaunch"))
    # The third was not used for longest.
    for count, more in ((1, 1), (LIMIT + 1, 1), (4, 1), (3, 0)):
        check_linear(backend, count)
        launched += more
        assert len(calls_of("cudaGraphLaunch")) == launched


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_a_capture_that_fails_is_said_once_and_runs_go_on(
    load, standin, caplog, call, check_linear, calls_of
):
    backend = load()
    standin.state.failing[call] = standin.cuda.cudaError_t.cudaErrorStreamCaptureUnsupported
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            check_linear(backend, 2, seed)
            check_linear(backend, 3, seed)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith(f"goes on without CUDA graphs: CUDA failed in {call}: ")
    assert calls_of("cudaGraphLaunch") == []
