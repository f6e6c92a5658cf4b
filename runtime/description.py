"""What the server says of itself and its models, as messages of the protocol."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import PackageNotFoundError, version

from protos import ModelMetadataResponse, ServerMetadataResponse
from runtime.model import ModelRecord
from runtime.properties import (
    BATCHABLE,
    NOT_READY,
    ON_REQUEST,
    PROVED_HERE,
    RUNS_ON,
    SHADOW,
    UNPROVED,
    properties_from_manifest,
)
from runtime.shadow.summary import shadow_summary
from runtime.tensors import dtype_named
from runtime.versions import Entry, State

SERVER_NAME = "twinport"
EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "statistics",
    "system_shared_memory",
)
"""Triton's extensions of the protocol that are served, under Triton's names."""
PLATFORMS = {"onnxruntime": "onnxruntime_onnx"}
"""Triton's name for what a backend of ours runs."""


def server_metadata() -> ServerMetadataResponse:
    """Name, version and extensions."""
    try:
        release = version(SERVER_NAME)
    except PackageNotFoundError:
        release = "unknown"
    return ServerMetadataResponse(name=SERVER_NAME, version=release, extensions=EXTENSIONS)


def metadata_from_record(
    record: ModelRecord, entry: Entry, *, pinned: bool
) -> ModelMetadataResponse:
    """The tensors of the version that answers, and what was proved of it.

    Args:
        record: The version.
        entry: Its model, with the other versions.
        pinned: Whether the client named the version; then no other is listed.
    """
    ready = [record.version] if pinned else [item.number for item in entry.ready()]
    response = ModelMetadataResponse(
        name=record.name,
        versions=[str(number) for number in ready],
        platform=PLATFORMS.get(record.identity.backend, record.identity.backend),
        properties=properties_from_record(record, entry),
    )
    for specs, described in ((record.inputs, response.inputs), (record.outputs, response.outputs)):
        for spec in specs.values():
            datatype = dtype_named(spec.dtype).wire
            described.add(name=spec.name, datatype=datatype, shape=spec.wire_shape)
    return response


def properties_from_record(record: ModelRecord, entry: Entry) -> dict[str, str]:
    """The properties of a served version; ``runtime.properties`` explains the keys."""
    proved_here = record.replayed.verdict if record.replayed else "pending"
    manifest = record.manifest
    properties: dict[str, str] = {PROVED_HERE: proved_here}
    if manifest is not None:
        properties = properties_from_manifest(manifest, proved_here=proved_here)
    proof = manifest.proof if manifest else None
    properties[BATCHABLE] = "true" if proof is not None and proof.batchable else "false"
    properties[RUNS_ON] = json.dumps(dataclasses.asdict(record.identity))
    if record.unproved:
        properties[UNPROVED] = record.unproved
    if record.on_request:
        properties[ON_REQUEST] = json.dumps(record.on_request)
    waiting = {
        str(item.number): item.reason or str(item.state)
        for item in entry.versions.values()
        if item.model is None or item.state is State.UNAVAILABLE
    }
    if waiting:
        properties[NOT_READY] = json.dumps(waiting)
    answering = entry.versions.get(record.version)
    if answering is not None and answering.model is not None and answering.model.shadow:
        properties[SHADOW] = json.dumps(shadow_summary(answering.model.shadow))
    return properties
