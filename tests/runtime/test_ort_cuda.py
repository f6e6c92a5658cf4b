"""ONNX Runtime on a GPU: it computes there or is refused; what needs no GPU is tested without.

The binding runs on any device, so the CPU shows that it gives what a plain call gives. Tests
marked ``gpu`` run where ONNX Runtime's CUDA provider opens a session.
"""

from __future__ import annotations

from contextlib import closing

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, save

from runtime.backends import ort_cuda
from runtime.backends.base import BackendOptions
from runtime.backends.ort import OrtBackend
from runtime.backends.ort_cuda import PROVIDER, SHAPE_OPERATORS, check_left_to_cpu
from runtime.errors import BackendUnavailable, InvalidInput

HERE_IS_CUDA = PROVIDER in ort.get_available_providers()
LARGE = np.random.RandomState(3).standard_normal((128, 256)).astype(np.float32)


@pytest.fixture
def model(tmp_path):
    """``y = x @ x.T``, ``rows`` of x, and a number that is passed on."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["y"], name="product"),
        helper.make_node("Shape", ["x"], ["rows"], name="size", end=1),
        helper.make_node("Identity", ["number"], ["same"], name="pass"),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "net",
        [tensor("x", TensorProto.FLOAT, ["n", "m"]), tensor("number", TensorProto.INT64, [])],
        [tensor("y", TensorProto.FLOAT, ["n", "n"]), tensor("rows", TensorProto.INT64, [1]),
         tensor("same", TensorProto.INT64, [])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    save(made, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


@pytest.fixture
def bound(model, monkeypatch):
    """The CPU, called as a GPU is."""
    with closing(OrtBackend(model, BackendOptions())) as backend:
        monkeypatch.setattr(backend, "_run", ort_cuda.run_bound)
        yield backend


@pytest.fixture
def plain(model):
    with closing(OrtBackend(model, BackendOptions())) as backend:
        yield backend


def inputs(rows=5, width=3):
    x = np.random.RandomState(rows).standard_normal((rows, width)).astype(np.float32)
    return {"x": x, "number": np.array(7)}


@pytest.mark.parametrize("rows", [0, 1, 7, 300])
def test_a_call_through_a_binding_gives_what_a_plain_call_gives(bound, plain, rows):
    arrays = inputs(rows)
    answers, expected = bound.infer(arrays), plain.infer(arrays)
    assert list(answers) == list(expected) == ["y", "rows", "same"]
    for name, array in expected.items():
        assert answers[name].dtype == array.dtype
        np.testing.assert_array_equal(answers[name], array)


def test_only_the_outputs_that_are_wanted_come_in_their_order(bound):
    answers = bound.infer(inputs(4), ["same", "rows"])
    assert {name: array.tolist() for name, array in answers.items()} == {"same": 7, "rows": [4]}
    assert list(answers) == ["same", "rows"]


def test_outputs_of_a_binding_belong_to_the_caller(bound):
    first = bound.infer(inputs(4))["y"]
    kept = first.copy()
    bound.infer(inputs(4) | {"x": np.ones((4, 3), np.float32)})
    np.testing.assert_array_equal(first, kept)
    first += 1


def test_inputs_may_lie_in_memory_in_any_order(bound, plain):
    x = np.asfortranarray(inputs(6)["x"])[::2]
    arrays = {"x": x, "number": np.array(1)}
    np.testing.assert_array_equal(bound.infer(arrays)["y"], plain.infer(arrays)["y"])


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((2, 2), np.float64), "number": np.array(1)},
        {"x": np.zeros((2, 2), np.float32)},
        {"x": np.zeros(2, np.float32), "number": np.array(1)},
    ],
    ids=["wrong type", "missing", "wrong rank"],
)
def test_what_the_library_refuses_in_a_binding_is_one_line(bound, arrays):
    with pytest.raises(InvalidInput) as caught:
        bound.infer(arrays)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(HERE_IS_CUDA, reason=f"this build of ONNX Runtime has {PROVIDER}")
def test_a_build_without_cuda_is_named_with_the_cure(model):
    with pytest.raises(BackendUnavailable) as caught:
        OrtBackend(model, BackendOptions(device="cuda"))
    assert str(caught.value) == (
        f"this build of ONNX Runtime has no {PROVIDER}; "
        "pip uninstall onnxruntime, then pip install 'twinport[gpu]'"
    )


@pytest.fixture
def opened(monkeypatch):
    """Sessions are opened on the CPU whatever was asked for, as the library does it."""
    real, asked = ort.InferenceSession, []
    severity = ort.set_default_logger_severity

    def session(path, settings, providers):
        asked.append((providers, settings))
        if len(asked) == 1:
            raise RuntimeError("This session contains graph nodes that are assigned to the "
                               "default CPU EP, but fallback to CPU EP has been explicitly "
                               "disabled by the user.")  # fmt: skip
        return real(path, settings, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDER, "CPUExecutionProvider"])
    yield asked
    severity(2)


@pytest.mark.skipif(HERE_IS_CUDA, reason="this build has the library that is missed here")
def test_a_session_that_fell_back_to_the_cpu_is_refused_with_the_reason(model, opened):
    with pytest.raises(BackendUnavailable) as caught:
        OrtBackend(model, BackendOptions(device="cuda"))
    said = str(caught.value)
    assert said.startswith(f"{PROVIDER} was asked for and CPUExecutionProvider is what runs: ")
    assert "libonnxruntime_providers_cuda.so: cannot open shared object file" in said
    assert said.endswith("; pip install 'onnxruntime-gpu[cuda,cudnn]'")
    (first, strict), (second, recorded) = opened
    assert first == second == [(PROVIDER, {"device_id": "0", "use_tf32": "0"})]
    assert strict.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
    assert recorded.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"


def test_cuda_that_fails_is_no_fault_of_the_file(model, monkeypatch, opened):
    def fail(*_, **__):
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected ;\n GPU=0")

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(BackendUnavailable) as caught:
        OrtBackend(model, BackendOptions(device="cuda"))
    assert str(caught.value) == (
        "CUDA does not work here: CUDA failure 100: no CUDA-capable device is detected ; GPU=0"
    )


def test_a_broken_file_is_named_as_such_on_a_gpu_too(tmp_path, monkeypatch, opened):
    def fail(*_, **__):
        raise RuntimeError("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Protobuf parsing failed.")

    monkeypatch.setattr(ort, "InferenceSession", fail)
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x0a")  # a version of the format, and no graph
    with pytest.raises(Exception, match=r"^bad.onnx cannot be loaded: ONNX Runtime: Protobuf"):
        OrtBackend(tmp_path / "bad.onnx", BackendOptions(device="cuda"))


def test_nodes_that_compute_sizes_may_stay_on_the_cpu():
    check_left_to_cpu((operator, "any") for operator in SHAPE_OPERATORS)


def test_nodes_that_compute_more_than_sizes_are_named(model):
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
    nodes = [
        (node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    with pytest.raises(BackendUnavailable) as caught:
        check_left_to_cpu([*nodes, *(("Conv", f"conv{i}") for i in range(4))])
    said = str(caught.value)
    assert "MatMul 'product'" in said
    assert "Shape" not in said
    assert "and 3 more would run on the CPU" in said


@pytest.fixture
def on_gpu(model):
    """The model on the first GPU; a machine that has none skips and says why."""
    try:
        backend = OrtBackend(model, BackendOptions(device="cuda"))
    except BackendUnavailable as error:
        pytest.skip(str(error))
    with closing(backend):
        yield backend


@pytest.mark.gpu
def test_the_gpu_is_what_computes(on_gpu, plain):
    assert on_gpu.identity.provider == PROVIDER
    arrays = {"x": LARGE, "number": np.array(7)}
    answers, expected = on_gpu.infer(arrays), plain.infer(arrays)
    np.testing.assert_allclose(answers["y"], expected["y"], rtol=1e-4, atol=1e-4)
    assert answers["rows"].tolist() == [128]
    assert answers["same"].tolist() == 7


@pytest.mark.gpu
def test_a_product_on_the_gpu_is_not_rounded_to_tf32(on_gpu):
    answer = on_gpu.infer({"x": LARGE, "number": np.array(1)})["y"]
    truth = LARGE.astype(np.float64) @ LARGE.astype(np.float64).T
    relative = np.sqrt(np.square(answer - truth).mean() / np.square(truth).mean())
    assert relative < 1e-5  # TF32 gives about 3e-4
