"""Real engines of the real builder; no GPU is asked."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper, load

from exporter.engine.build import configured, engine_from_onnx
from exporter.engine.layers import EngineNetwork, EngineTensor
from exporter.engine.network import check_ends
from exporter.engine.options import EngineOptions
from exporter.engine.origins import Origins
from exporter.engine.parse import open_session, parsed_network
from runtime.backends.plan import read_header
from runtime.errors import ExportError
from runtime.manifest import ModuleOrigin, ProfileShape
from runtime.tensors import spec_from_text

FLOAT, INT64, DOUBLE = TensorProto.FLOAT, TensorProto.INT64, TensorProto.DOUBLE
SHAPES = ((ProfileShape("image", (1, 1, 32, 32), (8, 1, 32, 32), (64, 1, 32, 32)),),)
IN_FC1 = {"y": ModuleOrigin("fc1", "torch.nn.Linear", "X")}


def plan_of(rtx, lenet, shapes=SHAPES, **options):
    artifact = lenet.folder / "model.onnx"
    return engine_from_onnx(rtx, artifact, lenet.manifest, shapes, EngineOptions(**options)).plan


def test_the_plan_is_the_librarys_and_of_its_version(rtx, lenet, tmp_path):
    (tmp_path / "plan").write_bytes(plan_of(rtx, lenet))
    header = read_header(tmp_path / "plan")
    assert header.flavour.name == "tensorrt_rtx"
    assert ".".join(map(str, header.version)) == rtx.version


@pytest.mark.parametrize(
    "options",
    [
        {"optimization_level": 0}, {"optimization_level": 5}, {"workspace_bytes": 16 << 20},
        {"compute_capabilities": ("8.9", "12.0")}, {"tf32": True},
    ],
)  # fmt: skip
def test_every_option_that_rtx_has_builds(rtx, lenet, options):
    assert plan_of(rtx, lenet, **options).startswith(b"vtrt")


def test_the_same_input_gives_the_same_bytes_in_one_process(rtx, lenet):
    assert plan_of(rtx, lenet) == plan_of(rtx, lenet)


def test_two_profiles_are_two_sets_of_kernels(rtx, lenet):
    small = (ProfileShape("image", (1, 1, 32, 32), (1, 1, 32, 32), (1, 1, 32, 32)),)
    assert len(plan_of(rtx, lenet, (small, *SHAPES))) > len(plan_of(rtx, lenet))


@pytest.mark.parametrize("wanted", [False, True])
def test_tf32_is_off_unless_asked_for(rtx, wanted):
    flag = rtx.api.BuilderFlag.TF32
    session = open_session(rtx)
    assert session.builder.create_builder_config().get_flag(flag)
    assert configured(session, EngineOptions(tf32=wanted)).get_flag(flag) == wanted


def test_the_builder_is_told_what_was_asked(rtx):
    trt = rtx.api
    options = EngineOptions(
        optimization_level=1, workspace_bytes=32 << 20, version_compatible=True,
        compute_capabilities=("8.9", "12.1"),
    )  # fmt: skip
    config = configured(open_session(rtx), options)
    assert config.builder_optimization_level == 1
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 32 << 20
    assert config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert [config.get_compute_capability(i) for i in range(config.num_compute_capabilities)] == [
        trt.ComputeCapability.SM89, trt.ComputeCapability.SM121,
    ]  # fmt: skip


def test_a_profile_that_the_library_refuses_is_one_line(rtx, lenet):
    wrong = ((ProfileShape("image", (8, 1, 32, 32), (4, 1, 32, 32), (2, 1, 32, 32)),),)
    with pytest.raises(ExportError, match=r"refuses profile 0: .*MIN<=OPT<=MAX"):
        plan_of(rtx, lenet, wrong)


def test_a_builder_that_gives_nothing_is_quoted_with_node_and_module(rtx, lenet):
    with pytest.raises(ExportError) as caught:
        plan_of(rtx, lenet, compute_capabilities=("7.5",))
    text = str(caught.value)
    assert (
        "cannot build the engine: node 'node_linear' (Gemm) of module fc1: Cannot compile" in text
    )
    assert text.endswith("FP32 GEMM is not supported; leave compute capability 7.5 out")
    assert "/_src/" not in text


def refusal(rtx, path, module_map=IN_FC1):
    with pytest.raises(ExportError) as caught:
        parsed_network(open_session(rtx), path, Origins(load(path), module_map))
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def test_a_refused_operator_names_node_module_reason_and_cure(rtx, graphs):
    path = graphs.write(helper.make_node("NonZero", ["x"], ["y"], name="n_where"),
                        outputs={"y": (INT64, [2, None])})  # fmt: skip
    text = refusal(rtx, path)
    assert "does not take the graph: node 'n_where' (NonZero) of module fc1: NonZero plugin" in text
    assert "--moe-form static" in text
    assert "Assertion failed" not in text


def test_a_refused_attribute_names_its_cure(rtx, graphs):
    path = graphs.write(
        helper.make_node("ScatterND", ["x", "i", "u"], ["y"], name="n_add", reduction="add"),
        x=(FLOAT, [4, 4]), i=(INT64, [2, 1]), u=(FLOAT, [2, 4]), outputs={"y": (FLOAT, [4, 4])},
    )  # fmt: skip
    text = refusal(rtx, path)
    assert (
        "(ScatterND) of module fc1: ScatterND with reduction is not supported; export with" in text
    )


def test_shapes_that_do_not_fit_are_said_without_the_missing_driver(rtx, graphs):
    path = graphs.write(helper.make_node("MatMul", ["x", "w"], ["y"], name="n_mm"),
                        w=(FLOAT, [3, 3]))  # fmt: skip
    text = refusal(rtx, path)
    assert "last dimension of input0 = 4 and second to last dimension of input1 = 3" in text
    assert "cuda" not in text.lower()


def test_a_fault_inside_a_function_names_the_call(rtx, graphs):
    path = graphs.write(helper.make_node("Mine", ["x"], ["y"], name="call", domain="my"))
    model = load(path)
    body = [helper.make_node("NonZero", ["a"], ["b"], name="inner")]
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("my", "Mine", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("my", 1))
    path.write_bytes(model.SerializeToString())
    assert "node 'inner' (NonZero) inside 'call' of module fc1" in refusal(rtx, path)


def test_a_graph_without_outputs_is_not_taken_for_a_success(rtx, graphs, tmp_path):
    (tmp_path / "empty.onnx").write_bytes(b"")
    assert "it is empty" in refusal(rtx, tmp_path / "empty.onnx")


def test_an_input_whose_values_are_sizes_is_refused(rtx, graphs, lenet):
    path = graphs.write(
        helper.make_node("Reshape", ["x", "s"], ["y"], name="n"), s=(INT64, [2]),
        outputs={"y": (FLOAT, ["p", "q"])},
    )  # fmt: skip
    with pytest.raises(ExportError, match="the values of input 's' are sizes inside the graph"):
        engine_from_onnx(rtx, path, lenet.manifest, SHAPES, EngineOptions())


def test_a_type_that_the_parser_narrows_in_silence_is_found(rtx, graphs, lenet):
    import dataclasses

    path = graphs.write(helper.make_node("Relu", ["x"], ["y"], name="n"), x=(DOUBLE, ["b", 4]),
                        outputs={"y": (DOUBLE, ["b", 4])})  # fmt: skip
    manifest = dataclasses.replace(
        lenet.manifest, inputs=(spec_from_text("x:float64[b,4]"),),
        outputs=(spec_from_text("y:float64[b,4]"),),
    )  # fmt: skip
    with pytest.raises(
        ExportError, match=r"input 'x' as float32 \[-1, 4\], the manifest has float64"
    ):
        engine_from_onnx(rtx, path, manifest, (), EngineOptions())


def test_ends_that_differ_from_the_manifest_are_refused():
    network = EngineNetwork((EngineTensor("x", "float32", (-1, 4)),), (), ("x",))
    x, other = spec_from_text("x:float32[b,4]"), spec_from_text("x:float32[b,5]")
    check_ends(network, [x], [x])
    for inputs, outputs in (([other], [x]), ([x], [other]), ([], [x]), ([x], [])):
        with pytest.raises(ExportError, match="this graph cannot become an engine"):
            check_ends(network, inputs, outputs)
