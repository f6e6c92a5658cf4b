"""The stubs of TensorRT: mypy finds calls that the real library would refuse, and no others."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOUND = """
from collections.abc import Sequence

import tensorrt as trt


class Log(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        print(severity.name, msg)


class Progress(trt.IProgressMonitor):
    def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None: ...
    def phase_finish(self, phase_name: str) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool:
        return step < 3


class Output(trt.IOutputAllocator):
    def reallocate_output_async(
        self, tensor_name: str, memory: int, size: int, alignment: int, stream: int
    ) -> int:
        return memory

    def notify_shape(self, tensor_name: str, shape: trt.Dims) -> None:
        print(tensor_name, list(shape))


def build(data: bytes, shapes: Sequence[tuple[int, ...]]) -> bytes:
    builder = trt.Builder(Log())
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, Log())
    if not parser.parse(data):
        raise ValueError([parser.get_error(i).desc() for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.progress_monitor = Progress()
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    profile = builder.create_optimization_profile()
    profile.set_shape("image", *shapes)
    if config.add_optimization_profile(profile) < 0:
        raise ValueError("profile")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ValueError("plan")
    return bytes(plan)


def run(plan: bytes, address: int, stream: int) -> tuple[int, ...]:
    engine = trt.Runtime(Log()).deserialize_cuda_engine(plan)
    if engine is None:
        raise ValueError("engine")
    context = engine.create_execution_context()
    if context is None:
        raise ValueError("context")
    context.set_optimization_profile_async(0, stream)
    if not context.set_input_shape("image", (1, 1, 32, 32)) or context.infer_shapes():
        raise ValueError("shape")
    context.set_tensor_address("image", address)
    context.set_output_allocator("logits", Output())
    if not context.execute_async_v3(stream):
        raise ValueError("run")
    return tuple(context.get_tensor_shape("logits"))
"""
WRONG = {
    "a flag that is gone": "config.set_flag(trt.BuilderFlag.FP16)",
    "a flag of another kind": "config.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)",
    "a shape that is none": "context.set_input_shape('image', 4)",
    "a shape without its tensor": "context.set_input_shape((1, 1, 32, 32))",
    "a fraction for a number": "context.execute_async_v3(0.5)",
    "an attribute that is gone": "network.get_layer(0).precision",
    "a method that is gone": "builder.platform_has_fast_fp16",
    "a name that is misspelt": "engine.create_execution_contexts()",
    "a plan that may be None": "bytes(builder.build_serialized_network(network, config))",
    "an engine that may be None": "runtime.deserialize_cuda_engine(b'').num_io_tensors",
    "a result taken for another": "wrong: str = engine.num_io_tensors",
    "an old network flag": "trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
}
SUBJECTS = """
import tensorrt as trt

def calls(
    builder: trt.Builder, network: trt.INetworkDefinition, config: trt.IBuilderConfig,
    runtime: trt.Runtime, engine: trt.ICudaEngine, context: trt.IExecutionContext,
) -> None:
"""


@pytest.fixture(scope="module")
def complaints(tensorrt_stubs, tmp_path_factory, pytestconfig):
    """Line numbers of mypy's errors in a right sequence and in a list of wrong calls."""
    if importlib.util.find_spec("mypy") is None:
        required = os.environ.get("TWINPORT_REQUIRE_TOOLS")
        (pytest.fail if required else pytest.skip)("mypy is missing; make lint brings it")
    folder = tmp_path_factory.mktemp("calls")
    (folder / "sound.py").write_text(SOUND)
    (folder / "wrong.py").write_text(SUBJECTS + "".join(f"    {x}\n" for x in WRONG.values()))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary",
         "--cache-dir", str(pytestconfig.cache.mkdir("mypy")), "sound.py", "wrong.py"],
        cwd=folder, env={**os.environ, "MYPYPATH": str(tensorrt_stubs)},
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return [line.split(":")[:2] for line in done.stdout.splitlines() if ": error:" in line]


def test_the_sequence_from_a_network_to_an_answer_passes(complaints):
    assert [line for file, line in complaints if file != "wrong.py"] == []


@pytest.mark.parametrize("what", WRONG)
def test_mypy_finds(complaints, what):
    line = SUBJECTS.count("\n") + 1 + list(WRONG).index(what)
    assert ["wrong.py", str(line)] in complaints


@pytest.fixture
def tool(monkeypatch):
    """The program that makes the stubs, as a module."""
    monkeypatch.syspath_prepend(str(HERE))
    import tensorrt_stubs

    return tensorrt_stubs


@pytest.fixture
def clean(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    from clean_stubs import cleaned

    return lambda text: cleaned(f"from __future__ import annotations\n{text}")


def test_what_is_no_python_in_a_signature_is_mended(clean):
    text = clean(
        "class Kind:\n    pass\n"
        "class ParserError:\n    pass\n"
        "class A:\n"
        "    def f(self, in: Kind, out: dict[str, int], k: Kind = <Kind.X: 3>, n: int) -> None:\n"
        "        ...\n"
        "    def g(self) -> nvonnxparser::IParserError:\n"
        "        ...\n"
        "    def h(self) -> nvinfer1::Unheard:\n"
        "        ...\n"
    )
    assert "def f(self, in_: Kind, out: dict[str, int], k: Kind=..., n: int=...) -> None" in text
    assert "def g(self) -> ParserError" in text
    assert "def h(self) -> typing.Any" in text


def test_types_mean_what_the_bindings_do(clean):
    text = clean(
        "class Dims:\n    pass\n"
        "class Weights:\n    pass\n"
        "bool: Dims\n"
        "def f(n: typing.SupportsInt, shape: Dims, weights: Weights = None) -> bool:\n"
        "    ...\n"
        "def g() -> Weights:\n"
        '    """:returns: The weights, or :class:`None` if they could not be made."""\n'
        "def h(i: int) -> Weights:\n"
        '    """:returns: The weights, or :class:`None` if the index is out of range."""\n'
    )
    dims = "Dims | collections.abc.Sequence[int]"
    assert f"def f(n: int, shape: {dims}, weights: Weights | None=None) -> builtins.bool" in text
    assert "def g() -> Weights | None" in text
    assert "def h(i: int) -> Weights:" in text


def test_a_tool_that_is_missing_is_named_in_one_line(tool, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tool.main([str(tmp_path / "stubs")]) == 1
    told = "tensorrt_stubs: gcc, readelf, nm is missing; apt-get install gcc binutils\n"
    assert capsys.readouterr().err == told


def test_a_wheel_that_is_out_of_reach_leaves_the_stubs_as_they_were(
    tool, monkeypatch, capsys, tmp_path
):
    target = tmp_path / "tensorrt" / "__init__.pyi"
    target.parent.mkdir()
    target.write_text("old")
    monkeypatch.setattr(tool, "TOOLS", ())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert tool.main([str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"tensorrt_stubs: {tool.WHEEL} cannot be downloaded: ERROR: ")
    assert said.count("\n") == 1
    assert [path.name for path in target.parent.iterdir()] == ["__init__.pyi"]
    assert target.read_text() == "old"
