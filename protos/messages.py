"""The message classes and enumerations of the service; ``messages.pyi`` has their types."""

from __future__ import annotations

from typing import Any

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

from protos.pool import POOL, file_descriptor_set


def _classes_by_name() -> dict[str, Any]:
    """What a generated module would define: classes, enumerations and their values."""
    found: dict[str, Any] = {}
    for name in (file.name for file in file_descriptor_set().file):
        file = POOL.FindFileByName(name)
        for message in file.message_types_by_name.values():
            found[message.name] = GetMessageClass(message)
        for enum in file.enum_types_by_name.values():
            found[enum.name] = EnumTypeWrapper(enum)
            found.update({value.name: value.number for value in enum.values})
    return found


_CLASSES = _classes_by_name()
__all__ = sorted(_CLASSES)
globals().update(_CLASSES)
