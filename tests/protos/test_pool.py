from __future__ import annotations

import ast
from importlib.resources import files

import pytest
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

import protos
from protos import messages


def test_every_call_of_the_service_has_its_classes() -> None:
    assert len(protos.METHODS) == 20
    assert protos.METHODS["ModelInfer"] == (
        protos.ModelInferRequest,
        protos.ModelInferResponse,
        False,
        False,
    )


def test_only_the_stream_call_streams() -> None:
    streaming = {name for name, method in protos.METHODS.items() if any(method[2:])}
    assert streaming == {"ModelStreamInfer"}
    assert protos.METHODS["ModelStreamInfer"][2:] == (True, True)


def test_the_table_of_calls_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        protos.METHODS["ModelInfer"] = protos.METHODS["ServerLive"]  # type: ignore[index]


def test_a_message_survives_its_bytes() -> None:
    request = protos.ModelInferRequest(model_name="lenet5", raw_input_contents=[b"\0" * 4])
    request.inputs.add(name="image", datatype="FP32", shape=[1])
    request.parameters["timeout"].uint64_param = 2**63
    assert protos.ModelInferRequest.FromString(request.SerializeToString()) == request


def test_enumerations_have_names_and_numbers() -> None:
    assert protos.DataType.Value("TYPE_FP32") == protos.TYPE_FP32 == 11
    assert protos.DataType.Name(protos.TYPE_STRING) == "TYPE_STRING"
    assert protos.ModelInput.FORMAT_NCHW == 2


def test_the_stub_declares_what_the_module_has() -> None:
    tree = ast.parse(files("protos").joinpath("messages.pyi").read_text())
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    names = {
        node.target.id
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    assert classes | names == set(messages.__all__)
    assert all(hasattr(protos, name) for name in messages.__all__)


def test_the_default_pool_stays_without_the_service() -> None:
    assert protos.POOL is not descriptor_pool.Default()
    assert protos.ModelInferRequest.DESCRIPTOR.file.pool is protos.POOL


@pytest.mark.parametrize(
    "service",
    [protos.SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"],
)
def test_reflection_describes_every_service_from_the_private_pool(service: str) -> None:
    servicer = reflection.ReflectionServicer([service], pool=protos.POOL)
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)
    (answer,) = servicer.ServerReflectionInfo(iter([asked]), None)
    assert answer.WhichOneof("message_response") == "file_descriptor_response"
