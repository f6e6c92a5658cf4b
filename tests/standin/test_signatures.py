"""The stand-ins have the names and arguments of the real libraries, and no others."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from enum import Enum
from pathlib import Path

import pytest

from runtime.backends.trt_engine import DTYPES
from runtime.tensors import BY_NAME

HERE = Path(__file__).parent
SOURCES = [ast.parse(path.read_text()) for path in sorted((HERE / "tensorrt").glob("*.py"))]
OURS = {item.name: item for tree in SOURCES for item in tree.body if hasattr(item, "name")}


@pytest.fixture(scope="module")
def real_tensorrt(tensorrt_stubs):
    """Classes of the real bindings: by name, their attributes and the arguments of methods."""
    tree = ast.parse((tensorrt_stubs / "tensorrt" / "__init__.pyi").read_text())
    classes = {node.name: members(node) for node in tree.body if isinstance(node, ast.ClassDef)}
    return {**classes, "the module": members(tree)}


def members(node):
    """Names of a class; for a method the argument names of each overload, else None."""
    found = {}
    for item in node.body:
        if isinstance(item, ast.ClassDef):
            found[item.name] = members(item)
        elif isinstance(item, ast.AnnAssign):
            found[item.target.id] = None
        elif isinstance(item, ast.Assign):
            found.update((target.id, None) for target in item.targets)
        elif isinstance(item, ast.FunctionDef):
            if any(isinstance(mark, ast.Name) and mark.id == "property"
                   for mark in item.decorator_list):  # fmt: skip
                found[item.name] = None
            else:
                overloads = found.setdefault(item.name, [])
                if overloads is not None:
                    overloads.append([argument.arg for argument in item.args.args])
    return found


def exported():
    """What the stand-in has in the place of TensorRT's names."""
    tree = ast.parse((HERE / "tensorrt" / "stand_in.py").read_text())
    names = next(
        ast.literal_eval(item.value)
        for item in tree.body
        if isinstance(item, ast.Assign) and item.targets[0].id == "__all__"
    )
    return [OURS[name] for name in names if not name.startswith("_")]


def stand_in_classes():
    return [item for item in exported() if isinstance(item, ast.ClassDef)]


def deviations(ours, real, where):
    """What a class of the stand-in has that the real one has not, or has otherwise."""
    for name, mine in ours.items():
        if name.startswith("_") and name != "__init__":
            continue
        if name not in real:
            yield f"{where}.{name} does not exist"
        elif isinstance(mine, dict):
            yield from deviations(mine, real[name], f"{where}.{name}")
        elif mine is None:
            if isinstance(real[name], list):
                yield f"{where}.{name} is a method"
        elif not isinstance(real[name], list):
            yield f"{where}.{name} is no method"
        elif name != "__init__" or mine[0][1:]:
            for arguments in mine:
                if arguments not in real[name]:
                    yield f"{where}.{name} takes {real[name]}, not {arguments}"


def test_every_name_and_argument_is_one_of_tensorrt(real_tensorrt):
    wrong = []
    for node in stand_in_classes():
        if node.name not in real_tensorrt:
            wrong.append(f"{node.name} does not exist")
        else:
            wrong += deviations(members(node), real_tensorrt[node.name], node.name)
    functions = [item for item in exported() if isinstance(item, ast.FunctionDef)]
    wrong += deviations(members(ast.Module(functions, [])), real_tensorrt["the module"], "module")
    assert wrong == []
    assert len(stand_in_classes()) > 10


def test_every_type_of_tensorrt_is_served_or_known_to_numpy_by_no_name(real_tensorrt):
    theirs = {name for name in real_tensorrt["DataType"] if name.isupper()}
    assert theirs - set(DTYPES) == {"BF16", "FP8", "INT4", "FP4", "E8M0"}
    assert set(DTYPES) < theirs
    ours = set(DTYPES.values())
    assert len(ours) == len(DTYPES)
    assert set(BY_NAME) - ours == {"uint16", "uint32", "uint64", "int16", "float64", "string"}
    assert ours < set(BY_NAME)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("class Runtime:\n def deserialize(self): ...", "Runtime.deserialize does not exist"),
        ("class Runtime:\n def load_runtime(self, file): ...", "not ['self', 'file']"),
        ("class ICudaEngine:\n num_layers = 1\n def name(self): ...", "name is no method"),
        ("class DataType:\n FP17 = 1", "DataType.FP17 does not exist"),
        ("class ILogger:\n class Severity:\n  LOUD = 1", "Severity.LOUD does not exist"),
    ],
)
def test_a_name_that_is_made_up_is_found(real_tensorrt, code, text):
    node = ast.parse(code).body[0]
    found = list(deviations(members(node), real_tensorrt[node.name], node.name))
    assert len(found) == 1
    assert text in found[0]


@pytest.fixture(scope="module")
def cuda():
    """The real bindings, which need no driver to be looked at, and the stand-in."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is missing")
    spec = importlib.util.spec_from_file_location("cuda_stand_in", HERE / "cuda_runtime.py")
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    sys.modules["cuda_stand_in"] = module
    spec.loader.exec_module(module)
    yield real, module
    del sys.modules["cuda_stand_in"]


def test_every_call_of_cuda_takes_what_the_real_one_takes(cuda):
    real, stand_in = cuda
    calls = [name for name in vars(stand_in) if name.startswith("cuda") and callable(
        getattr(stand_in, name)) and not inspect.isclass(getattr(stand_in, name))]  # fmt: skip
    assert len(calls) > 15
    for name in calls:
        ours = list(inspect.signature(getattr(stand_in, name)).parameters)
        assert ours == list(inspect.signature(getattr(real, name)).parameters), name


def test_every_constant_of_cuda_has_the_real_value(cuda):
    real, stand_in = cuda
    classes = [item for item in vars(stand_in).values() if inspect.isclass(item)]
    kinds = [item for item in classes if issubclass(item, Enum) and item is not Enum]
    assert len(kinds) == 3
    for kind in kinds:
        for member in kind:
            assert getattr(getattr(real, kind.__name__), member.name).value == member.value
    for name in ("cudaStreamNonBlocking", "cudaHostAllocDefault"):
        assert getattr(stand_in, name) == getattr(real, name)


def test_what_tensorrt_rtx_is_asked_beyond_that_is_there():
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is missing")
    for name in ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"):
        assert hasattr(rtx.IRuntimeConfig, name)
    assert "NONE" in rtx.DynamicShapesKernelSpecializationStrategy.__members__
    assert "WHOLE_GRAPH_CAPTURE" in rtx.CudaGraphStrategy.__members__
    assert "SM89" in rtx.ComputeCapability.__members__


def test_tensorrt_rtx_has_all_that_the_stand_in_has():
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is missing")
    for node in stand_in_classes():
        for name in members(node):
            if not name.startswith("_") and node.name != "DataType":
                assert hasattr(getattr(rtx, node.name), name), f"{node.name}.{name}"
