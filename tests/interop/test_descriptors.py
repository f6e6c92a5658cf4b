"""Our definitions against those of the unmodified ``tritonclient``, field by field."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FileDescriptorProto,
)
from tritonclient.grpc import model_config_pb2, service_pb2

from protos.pool import file_descriptor_set

OURS_ONLY = {
    "ModelMetadataResponse.properties": "the Open Inference Protocol has it, Triton does not",
    "ModelMetadataResponse.PropertiesEntry.key": "of the same map",
    "ModelMetadataResponse.PropertiesEntry.value": "of the same map",
}
COPIED_FROM = (2, 73)
"""The release of tritonclient whose definitions ours are."""

Facts = dict[str, tuple[Any, ...]]


def _facts(files: list[FileDescriptorProto]) -> Facts:
    """Everything that decides the bytes and the text form, by its full name."""
    found: Facts = {}
    for file in files:
        assert (file.syntax, file.package) == ("proto3", "inference")
        for message in file.message_type:
            found.update(_message_facts(message, ""))
        for enum in file.enum_type:
            found.update(_enum_facts(enum, ""))
        for service in file.service:
            for method in service.method:
                found[f"{service.name}/{method.name}"] = (
                    method.input_type,
                    method.output_type,
                    method.client_streaming,
                    method.server_streaming,
                )
    return found


def _message_facts(message: DescriptorProto, scope: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    path = f"{scope}{message.name}"
    yield path, ("message", message.options.map_entry)
    for field in message.field:
        in_oneof = field.HasField("oneof_index")
        yield (
            f"{path}.{field.name}",
            (
                field.number,
                field.type,
                field.label,
                field.type_name,
                message.oneof_decl[field.oneof_index].name if in_oneof else None,
                field.proto3_optional,
                field.options.SerializeToString(),
            ),
        )
    for nested in message.nested_type:
        yield from _message_facts(nested, f"{path}.")
    for enum in message.enum_type:
        yield from _enum_facts(enum, f"{path}.")


def _enum_facts(enum: EnumDescriptorProto, scope: str) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for value in enum.value:
        yield f"{scope}{enum.name}.{value.name}", (value.number,)


def _theirs() -> Facts:
    files = []
    for module in (model_config_pb2, service_pb2):
        file = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return _facts(files)


OURS = _facts(list(file_descriptor_set().file))
THEIRS = _theirs()


def test_every_definition_that_both_have_is_equal() -> None:
    shared = OURS.keys() & THEIRS.keys()
    assert len(shared) > 400
    assert {name: OURS[name] for name in shared} == {name: THEIRS[name] for name in shared}


def test_what_only_we_have_is_listed() -> None:
    messages = {"ModelMetadataResponse.PropertiesEntry"}
    assert OURS.keys() - THEIRS.keys() == OURS_ONLY.keys() | messages


def test_nothing_of_theirs_is_missing() -> None:
    missing = THEIRS.keys() - OURS.keys()
    installed = tuple(int(word) for word in version("tritonclient").split(".")[:2])
    if missing and installed > COPIED_FROM:
        pytest.skip(f"tritonclient {installed} added {sorted(missing)}")
    assert missing == set()


IMPORTS = {"ours": "import protos", "theirs": "import tritonclient.grpc"}
ROUND_TRIP = """
from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.text_format import MessageToString
from tritonclient.grpc import service_pb2

SAMPLES = {
    Field.CPPTYPE_BOOL: True, Field.CPPTYPE_ENUM: 0, Field.CPPTYPE_INT32: -7,
    Field.CPPTYPE_INT64: -(2**40), Field.CPPTYPE_UINT32: 2**32 - 1,
    Field.CPPTYPE_UINT64: 2**64 - 1, Field.CPPTYPE_FLOAT: 0.5, Field.CPPTYPE_DOUBLE: 0.1,
}

def value(field):
    if field.cpp_type == Field.CPPTYPE_STRING:
        return b"\\xff\\x00" if field.type == Field.TYPE_BYTES else "texte \\u00e9"
    return SAMPLES[field.cpp_type]

def fill(message):
    for field in message.DESCRIPTOR.fields:
        slot = getattr(message, field.name)
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            key = value(inner.fields_by_name["key"])
            if inner.fields_by_name["value"].message_type is None:
                slot[key] = value(inner.fields_by_name["value"])
            else:
                fill(slot[key])
        elif inner is not None:
            fill(slot.add() if field.is_repeated else slot)
            if not field.is_repeated:
                slot.SetInParent()
        elif field.is_repeated:
            slot.append(value(field))
        else:
            setattr(message, field.name, value(field))

def as_bytes(message):
    return message.SerializeToString(deterministic=True)

for method in protos.METHODS.values():
    for ours in (method.request, method.response):
        theirs = getattr(service_pb2, ours.DESCRIPTOR.name)
        assert ours is not theirs
        there, here = theirs(), ours()
        fill(there)
        here.ParseFromString(as_bytes(there))
        assert as_bytes(here) == as_bytes(there), ours.DESCRIPTOR.name
        assert MessageToString(here) == MessageToString(there), ours.DESCRIPTOR.name
        again = theirs.FromString(as_bytes(here))
        assert again == there, ours.DESCRIPTOR.name
print("equal", len(protos.METHODS))
"""


@pytest.mark.parametrize("order", [("ours", "theirs"), ("theirs", "ours")], ids="-then-".join)
def test_bytes_go_there_and_back_in_one_process(order: tuple[str, str]) -> None:
    program = "\n".join([*(IMPORTS[name] for name in order), ROUND_TRIP])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "equal 20\n"
