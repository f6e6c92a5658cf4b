"""What a request calls itself, for the log of those that failed."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from protos import METHODS
from runtime.observe.failures import RequestNames


def names_from(method: str, payload: bytes) -> RequestNames:
    """Read a request again; most have a model, few an id, some cannot be read.

    Args:
        method: Full or short name of the call.
        payload: The request's bytes.
    """
    kind = METHODS.get(method.rpartition("/")[2])
    if kind is None:
        return RequestNames()
    try:
        message = kind.request.FromString(payload)
    except DecodeError:
        return RequestNames()
    model = getattr(message, "model_name", "") or getattr(message, "name", "")
    version = getattr(message, "model_version", "") or getattr(message, "version", "")
    return RequestNames(model, version, getattr(message, "id", ""))
