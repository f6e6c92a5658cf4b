"""The runner's sequence, against a stand-in; nothing here is a result of TensorRT."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.backends.trt_graphs import LIMIT
from runtime.errors import (
    BackendUnavailable,
    InvalidInput,
    RepositoryError,
    ResourceExhausted,
    TwinportError,
    Unavailable,
)

WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
SMALL = {"x": [[1, 4], [4, 4], [8, 4]]}
LARGE = {"x": [[1, 4], [64, 4], [64, 4]]}
TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def rows(count, seed=0):
    return np.random.RandomState(seed).standard_normal((count, 4)).astype(np.float32)


def model(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, TYPES[kind], shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made.SerializeToString()


def linear():
    """``y = x @ WEIGHT`` and the sum of each row."""
    return model(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"], name="multiply"),
            helper.make_node("ReduceSum", ["y", "axis"], ["total"], keepdims=0),
        ],
        [("x", "float32", ["batch", 4])],
        [("y", "float32", ["batch", 3]), ("total", "float32", ["batch"])],
        [("w", WEIGHT), ("axis", np.array([1]))],
    )


def expand():
    """``y`` is ``x`` in the shape that ``sizes`` holds."""
    return model(
        [helper.make_node("Expand", ["x", "sizes"], ["y"])],
        [("x", "float32", [1, 2]), ("sizes", "int64", [2])],
        [("y", "float32", ["n", "m"])],
    )


def nonzero():
    """Where ``x`` is not zero, and its double."""
    return model(
        [
            helper.make_node("NonZero", ["x"], ["where"]),
            helper.make_node("Add", ["x", "x"], ["twice"]),
        ],
        [("x", "float32", ["n"])],
        [("where", "int64", [1, "found"]), ("twice", "float32", ["n"])],
    )


@pytest.fixture
def load(standin, tmp_path):
    """Write a plan for the stand-in and load it; everything has to be given back at the end."""
    opened = []

    def load(graph=None, profiles=(SMALL,), options=None, **described):
        path = tmp_path / "model.engine"
        path.write_bytes(standin.tensorrt._plan_bytes(graph or linear(), profiles, **described))
        backend = open_backend("tensorrt", path, options)
        opened.append(backend)
        return backend

    yield load
    for backend in opened:
        backend.close()
    assert standin.state.held() == []


def check_linear(backend, count, seed=0):
    x = rows(count, seed)
    answers = backend.infer({"x": x})
    assert set(answers) == {"y", "total"}
    np.testing.assert_allclose(answers["y"], x @ WEIGHT, rtol=1e-5)
    np.testing.assert_allclose(answers["total"], (x @ WEIGHT).sum(1), rtol=1e-5, atol=1e-6)


def calls_of(standin, name):
    return [arguments for called, arguments in standin.state.calls if called == name]


def test_an_engine_answers_and_says_what_it_is(load):
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


def test_the_calls_come_in_the_order_that_tensorrt_wants(load, standin):
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


def test_all_work_is_on_one_stream_that_waits_for_no_other(load, standin):
    first, second = load(), load()
    check_linear(first, 2)
    check_linear(second, 2)
    assert (
        calls_of(standin, "cudaStreamCreateWithFlags")
        == [(standin.cuda.cudaStreamNonBlocking,)] * 2
    )
    streams = {arguments[-1] for arguments in calls_of(standin, "cudaMemcpyAsync")}
    assert len(streams) == 2
    assert 0 not in streams


def test_without_a_wait_the_answer_is_wrong(load, monkeypatch):
    backend, x = load(), rows(2)
    with monkeypatch.context() as patched:
        patched.setattr("runtime.backends.cuda.Stream.synchronize", lambda self: None)
        assert not np.allclose(backend.infer({"x": x})["y"], x @ WEIGHT)
    check_linear(backend, 2)


def test_only_the_outputs_that_are_wanted_are_copied(load, standin):
    backend = load()
    standin.state.calls.clear()
    assert set(backend.infer({"x": rows(2)}, ["total"])) == {"total"}
    kinds = [arguments[3].name for arguments in calls_of(standin, "cudaMemcpyAsync")]
    assert kinds == ["cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"]


def test_answers_belong_to_the_caller(load):
    backend = load()
    first = backend.infer({"x": rows(2, seed=1)})["y"]
    kept = first.copy()
    backend.infer({"x": rows(2, seed=2)})
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    check_linear(backend, 2)


def test_the_smallest_profile_that_fits_is_chosen(load, standin):
    backend = load(profiles=(LARGE, SMALL))
    for count in (2, 8, 9, 3):
        check_linear(backend, count)
    assert calls_of(standin, "set_optimization_profile_async") == [(1,), (0,), (1,)]


def test_a_batch_that_no_profile_takes_names_their_ranges(load):
    backend = load(profiles=(SMALL, LARGE))
    with pytest.raises(InvalidInput) as caught:
        backend.infer({"x": rows(65)})
    assert str(caught.value) == (
        "no profile of the engine takes x [65, 4]; "
        "wanted x [1, 4] to [8, 4]; or x [1, 4] to [64, 4]"
    )
    check_linear(backend, 64)


def test_buffers_grow_and_are_used_again(load, standin):
    backend = load(profiles=(LARGE,))
    for count in (64, 1, 40, 64):
        check_linear(backend, count, seed=count)
    before = len(calls_of(standin, "cudaMalloc"))
    check_linear(backend, 50)
    assert len(calls_of(standin, "cudaMalloc")) == before
    # Three tensors and the scratch memory, on each side once.
    assert before == 4
    assert len(calls_of(standin, "cudaHostAlloc")) == 3


def test_a_shape_that_comes_again_is_replayed_with_new_inputs(load, standin):
    backend = load()
    for seed in range(5):
        check_linear(backend, 3, seed)
    assert len(calls_of(standin, "cudaGraphInstantiate")) == 1
    assert len(calls_of(standin, "cudaGraphLaunch")) == 3
    standin.state.calls.clear()
    check_linear(backend, 3, seed=9)
    assert "execute_async_v3" not in standin.state.names()


def test_graphs_of_several_shapes_and_plain_runs_live_beside_each_other(load, standin):
    backend = load(profiles=(SMALL, LARGE))
    backend.infer({"x": rows(64)})
    for turn in range(4):
        for count in (2, 3, 20):
            check_linear(backend, count, seed=10 * turn + count)
        check_linear(backend, 5 + turn)
    assert len(calls_of(standin, "cudaGraphLaunch")) == 6


def test_graphs_are_dropped_when_a_buffer_moves(load, standin):
    backend = load(profiles=(LARGE,))
    for seed in range(3):
        check_linear(backend, 2, seed)
    check_linear(backend, 64)
    for seed in range(3):
        check_linear(backend, 2, seed)
    assert len(calls_of(standin, "cudaGraphInstantiate")) == 2
    assert len([graph for graph in standin.state.graphs if graph.live]) == 1


def test_only_so_many_graphs_are_kept_and_those_in_use_stay(load, standin, monkeypatch):
    monkeypatch.setattr("runtime.backends.trt_graphs.STALE_CALLS", 50)
    backend = load(profiles=(LARGE,))
    backend.infer({"x": rows(64)})
    for count in range(1, LIMIT + 4):
        check_linear(backend, count)
        check_linear(backend, count)
    assert len(calls_of(standin, "cudaGraphInstantiate")) == LIMIT
    for turn in range(50):
        check_linear(backend, 1 + turn % 2)
    for seed in range(3):
        check_linear(backend, LIMIT + 1, seed)
    assert len(calls_of(standin, "cudaGraphInstantiate")) == LIMIT + 1
    assert len([graph for graph in standin.state.graphs if graph.live]) == LIMIT
    launched = len(calls_of(standin, "cudaGraphLaunch"))
    # The third was not used for longest.
    for count, more in ((1, 1), (LIMIT + 1, 1), (4, 1), (3, 0)):
        check_linear(backend, count)
        launched += more
        assert len(calls_of(standin, "cudaGraphLaunch")) == launched


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_a_capture_that_fails_is_said_once_and_runs_go_on(load, standin, caplog, call):
    backend = load()
    standin.state.failing[call] = standin.cuda.cudaError_t.cudaErrorStreamCaptureUnsupported
    with caplog.at_level(logging.WARNING):
        for seed in range(4):
            check_linear(backend, 2, seed)
            check_linear(backend, 3, seed)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert lines[0].startswith(f"goes on without CUDA graphs: CUDA failed in {call}: ")
    assert calls_of(standin, "cudaGraphLaunch") == []


def test_a_shape_tensor_lives_on_the_host_and_is_read_before_the_run(load, standin):
    values = {"sizes": [[[1, 2], [3, 2], [9, 2]]]}
    backend = load(expand(), [{}], values=values)
    x = np.array([[1, 2]], np.float32)
    for count in (3, 4, 3, 3, 3):
        answers = backend.infer({"x": x, "sizes": np.array([count, 2])})
        np.testing.assert_array_equal(answers["y"], np.repeat(x, count, 0))
    # What is read while queueing cannot be captured.
    assert calls_of(standin, "cudaStreamBeginCapture") == []
    with pytest.raises(InvalidInput, match=r"wanted .*sizes \[2\] to \[2\] with values \[1, 2\]"):
        backend.infer({"x": x, "sizes": np.array([10, 2])})


def test_sizes_that_only_the_run_tells_come_through_the_allocator(load, standin):
    backend = load(nonzero(), [{"x": [[1], [8], [4096]]}], unsized=["where"])
    for count in (3, 300, 2, 2, 2, 2000):
        x = np.tile(np.array([0, 1.5], np.float32), count)
        answers = backend.infer({"x": x})
        np.testing.assert_array_equal(answers["where"], [np.flatnonzero(x)])
        np.testing.assert_array_equal(answers["twice"], x + x)
    np.testing.assert_array_equal(
        backend.infer({"x": np.zeros(5, np.float32)}, ["where"])["where"], np.zeros((1, 0))
    )
    assert calls_of(standin, "cudaGraphLaunch") == []


def test_memory_that_the_allocator_cannot_get_is_an_error_of_the_call(load, standin):
    backend = load(nonzero(), [{"x": [[1], [8], [4096]]}], unsized=["where"])
    backend.infer({"x": np.ones(8, np.float32)})
    big = np.ones(4096, np.float32)
    backend.infer({"x": np.zeros(4096, np.float32)})
    standin.state.failing["cudaMalloc"] = standin.cuda.cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(ResourceExhausted, match="cudaMalloc of 32,768 bytes"):
        backend.infer({"x": big})
    np.testing.assert_array_equal(backend.infer({"x": big})["where"], [np.arange(4096)])


def test_the_inspector_gives_the_layers(load):
    assert load().information()["Layers"] == ["multiply", "ReduceSum"]


def test_closing_gives_everything_back_and_may_be_done_twice(load, standin):
    backend = load()
    for seed in range(3):
        check_linear(backend, 2, seed)
    backend.close()
    assert standin.state.held() == []
    backend.close()
    for use in (lambda: backend.infer({"x": rows(1)}), backend.information):
        with pytest.raises(Unavailable, match="the engine is closed"):
            use()


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({}, "input 'x' is missing; the engine wants float32 [batch, 4]"),
        ({"x": rows(1), "z": rows(1)}, "input 'z' is not known; the engine has x"),
        (
            {"x": rows(1).astype(np.float64)},
            "input 'x' has data type float64; the engine wants float32 [batch, 4]",
        ),
    ],
)
def test_inputs_of_another_name_or_type_are_refused(load, arrays, text):
    with pytest.raises(InvalidInput) as caught:
        load().infer(arrays)
    assert str(caught.value) == text


def test_an_output_that_is_not_known_is_refused(load):
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


def test_a_run_that_fails_is_an_error_and_leaves_nothing_under_way(load, standin):
    with pytest.raises(TwinportError, match=r"the engine could not run: .*an error of the engine"):
        load(no_run=True).infer({"x": rows(1)})
    assert standin.state.streams[0].waiting == []


def test_memory_that_could_not_grow_is_forgotten(load, standin):
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
def test_an_error_of_cuda_names_the_call_and_the_next_call_works(load, standin, call):
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


def test_code_in_a_plan_runs_only_where_it_is_allowed(load):
    with pytest.raises(RepositoryError, match=r"which is not allowed; .*--engine-code"):
        load(host_code=True, options=BackendOptions(newer_library=True))
    check_linear(load(host_code=True, options=BackendOptions(engine_code=True)), 2)


@pytest.mark.parametrize("version", [(11, 3, 0, 9), (10, 16, 1, 11)])
def test_an_older_plan_runs_where_it_was_built_to(load, version):
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
