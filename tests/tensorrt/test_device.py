"""What the runner does with the real library on a real GPU."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.backends.plan import FLAVOURS
from runtime.backends.trt_library import load_library
from runtime.client import Client
from runtime.errors import InvalidInput, RepositoryError
from runtime.manifest import FILE_NAME, read_manifest
from runtime.replay import replay_version

pytestmark = pytest.mark.tensorrt

MODELS = ("lenet5", "moe")


def version_of(engines, flavour, model):
    return engines / f"{model}{FLAVOURS[flavour].suffix}" / "1"


def images(count, seed=0):
    rows = np.random.RandomState(seed).standard_normal((count, 1, 32, 32))
    return rows.astype(np.float32)


@pytest.fixture(params=MODELS)
def opened(request, engines, flavour):
    """An engine, and its source in ONNX Runtime."""
    folder = version_of(engines, flavour, request.param)
    engine = open_backend(flavour, folder / "model.engine")
    source = open_backend("onnxruntime", engines / request.param / "1" / "model.onnx")
    yield engine, source, folder
    engine.close()
    source.close()


def close_to(answers, right):
    error = np.sqrt(np.mean((answers["logits"] - right["logits"]) ** 2))
    return error < 1e-5 * np.sqrt(np.mean(right["logits"] ** 2))


def test_the_evidence_is_replayed_on_the_device(opened):
    engine, _, folder = opened
    replayed = replay_version(folder, read_manifest(folder / FILE_NAME), engine)
    assert replayed.verdict == "passed", replayed.reason
    assert replayed.identity.provider.startswith("TensorRT")


def test_a_graph_gives_what_the_plain_run_gave_and_the_answers_of_new_inputs(opened):
    engine, source, _ = opened
    # Buffers that grow would drop the graphs.
    engine.infer({"image": images(8)})
    plain = engine.infer({"image": images(3)})
    for seed in range(1, 4):
        new = {"image": images(3, seed)}
        assert close_to(engine.infer(new), source.infer(new))
    again = engine.infer({"image": images(3)})
    for name, array in plain.items():
        np.testing.assert_array_equal(again[name], array)


def test_every_profile_answers(opened):
    engine, source, _ = opened
    for count in (1, 64, 4, 5, 2, 64, 1):
        batch = {"image": images(count, count)}
        assert close_to(engine.infer(batch), source.infer(batch))


def test_what_no_profile_takes_is_refused_and_the_next_call_works(opened):
    engine, source, _ = opened
    with pytest.raises(InvalidInput, match=r"no profile of the engine takes image \[65, "):
        engine.infer({"image": images(65)})
    assert close_to(engine.infer({"image": images(2)}), source.infer({"image": images(2)}))


def test_the_inspector_names_layers(opened):
    assert opened[0].information()["Layers"]


def test_two_engines_beside_each_other_do_not_disturb(opened, flavour):
    engine, source, folder = opened
    other = open_backend(flavour, folder / "model.engine")
    for seed in range(4):
        first, second = {"image": images(3, seed)}, {"image": images(5, seed + 50)}
        assert close_to(engine.infer(first), source.infer(first))
        assert close_to(other.infer(second), source.infer(second))
    other.close()


def test_a_garbled_plan_is_refused_in_the_librarys_words(engines, flavour, tmp_path):
    plan = (version_of(engines, flavour, "lenet5") / "model.engine").read_bytes()
    path = tmp_path / "model.engine"
    path.write_bytes(plan[:28] + bytes(len(plan) - 28))
    with pytest.raises(RepositoryError, match="was refused by TensorRT"):
        open_backend(flavour, path)


def test_the_server_has_models_and_engines_ready(engines, start_server):
    server = start_server(engines)
    assert server.lines[-1] == "twinport: 4 of 4 models ready"
    with Client(server.address) as client:
        answers = [client.infer(line.split()[2].split("/")[0], {"image": images(2)})
                   for line in server.lines if ": ready: " in line]  # fmt: skip
    assert len(answers) == 4


def built(flavour, path, nodes, inputs, outputs, configure):
    """A plan of a graph whose shapes the run itself tells."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    trt = load_library(FLAVOURS[flavour])
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        pytest.skip(f"the parser takes no {nodes[0].op_type}: {parser.get_error(0).desc()}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    configure(profile)
    config.add_optimization_profile(profile)
    path.write_bytes(builder.build_serialized_network(network, config))
    return open_backend(flavour, path, BackendOptions())


def test_sizes_that_only_the_run_tells_come_through_the_allocator(flavour, tmp_path):
    engine = built(
        flavour, tmp_path / "model.engine", [helper.make_node("NonZero", ["x"], ["where"])],
        [("x", TensorProto.FLOAT, ["n"])], [("where", TensorProto.INT64, [1, "found"])],
        lambda profile: profile.set_shape("x", (1,), (64,), (4096,)),
    )  # fmt: skip
    for count in (3, 400, 2, 4096):
        x = (np.random.RandomState(count).rand(count) > 0.5).astype(np.float32)
        np.testing.assert_array_equal(engine.infer({"x": x})["where"], [np.flatnonzero(x)])
    engine.close()


def test_a_shape_tensor_is_read_on_the_host(flavour, tmp_path):
    engine = built(
        flavour, tmp_path / "model.engine", [helper.make_node("Expand", ["x", "sizes"], ["y"])],
        [("x", TensorProto.FLOAT, [1, 2]), ("sizes", TensorProto.INT64, [2])],
        [("y", TensorProto.FLOAT, ["n", "m"])],
        lambda profile: profile.set_shape_input("sizes", (1, 2), (3, 2), (9, 2)),
    )  # fmt: skip
    x = np.array([[1, 2]], np.float32)
    for count in (3, 9, 3, 3):
        answers = engine.infer({"x": x, "sizes": np.array([count, 2])})
        np.testing.assert_array_equal(answers["y"], np.repeat(x, count, 0))
    with pytest.raises(InvalidInput, match="no profile of the engine takes"):
        engine.infer({"x": x, "sizes": np.array([10, 2])})
    engine.close()
