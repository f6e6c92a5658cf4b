"""The private descriptor pool that holds the service; nothing else of ours comes in.

Generated ``*_pb2`` modules register themselves in protobuf's one default pool, where two
definitions of ``inference.ModelInferRequest`` exclude each other. A pool of our own lives
beside any other client of the same service in the same process.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import NamedTuple

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

SERVICE = "inference.GRPCInferenceService"
DESCRIPTOR_SET = "inference.binpb"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class Method(NamedTuple):
    """One call of the service."""

    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool


def file_descriptor_set() -> FileDescriptorSet:
    """The committed descriptor set: our files, each after those that it imports."""
    return FileDescriptorSet.FromString(files("protos").joinpath(DESCRIPTOR_SET).read_bytes())


def _private_pool() -> DescriptorPool:
    """Our files, and those of the standard services that reflection has to describe too."""
    pool = DescriptorPool()
    for file in file_descriptor_set().file:
        pool.AddSerializedFile(file.SerializeToString())
    for neighbour in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(neighbour.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_reflection_v1().SerializeToString())
    return pool


def _reflection_v1() -> FileDescriptorProto:
    """``grpc.reflection.v1``, which is v1alpha under another name; grpcio lacks it."""
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    old, new = file.package, REFLECTION_V1.rpartition(".")[0]
    file.name = file.name.replace("v1alpha", "v1")
    file.package = new
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(f".{old}.", f".{new}.")
    for method in file.service[0].method:
        method.input_type = method.input_type.replace(f".{old}.", f".{new}.")
        method.output_type = method.output_type.replace(f".{old}.", f".{new}.")
    return file


def _methods_of(service: ServiceDescriptor) -> Mapping[str, Method]:
    methods = {
        method.name: Method(
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            method.client_streaming,
            method.server_streaming,
        )
        for method in service.methods
    }
    return MappingProxyType(methods)


POOL = _private_pool()
METHODS = _methods_of(POOL.FindServiceByName(SERVICE))
"""Every call by its name (``ModelInfer``)."""
