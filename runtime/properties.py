"""What a served model says of itself in ``ModelMetadataResponse.properties``.

The server writes these, the client reads them; both through this module, so that the keys
and the JSON in them are agreed in one place. No wire library is needed here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import ManifestError
from runtime.json_records import record_from_data
from runtime.manifest import Manifest, Preprocessing

PREPROCESSING = "twinport.preprocessing"
"""JSON object with the fields of ``manifest.Preprocessing``; absent where there is none."""
LABELS = "twinport.labels"
"""JSON list of class names in the order of the logits; absent where there are none."""
PROOF = "twinport.proof"
"""Verdict of the proof that came with the version: ``passed``, ``failed``, ``pending``."""
PROVED_HERE = "twinport.proved_here"
"""Verdict of the server's own replay, on its backend and device; the same words."""
UNPROVED = "twinport.unproved"
"""Why the version is served without a passed replay; absent where it passed."""
BATCHABLE = "twinport.batchable"
"""``true`` where the proof showed that joined requests give the separate answers."""
RUNS_ON = "twinport.runs_on"
"""JSON object with the fields of ``backends.base.BackendIdentity``."""
ON_REQUEST = "twinport.on_request"
"""JSON list of the outputs that are sent only where they are named; absent without any."""
NOT_READY = "twinport.not_ready"
"""JSON object: the versions that do not answer, each with its reason; absent without any."""

SHADOW = "twinport.shadow"
"""JSON object, where answers are checked against a reference: ``share``, ``requests``,
``drifts`` (why, empty where they agree), ``trouble`` (why none are compared) and by output
``rms``, ``limit``, ``differing``; an RMS that is not finite is null."""


@dataclass(frozen=True)
class ModelProperties:
    """The properties of a served model; every one may be absent (another server)."""

    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    proof: str | None = None
    proved_here: str | None = None


def properties_from_manifest(manifest: Manifest, *, proved_here: str) -> dict[str, str]:
    """The map that the server sends.

    Args:
        manifest: The version that answers.
        proved_here: Verdict of the replay on this server's backend and device.
    """
    proof = manifest.proof
    properties = {PROOF: proof.verdict if proof else "pending", PROVED_HERE: proved_here}
    if manifest.preprocessing is not None:
        properties[PREPROCESSING] = json.dumps(_known_before(manifest.preprocessing))
    if manifest.labels is not None:
        properties[LABELS] = json.dumps(manifest.labels, ensure_ascii=False)
    return properties


def _known_before(preprocessing: Preprocessing) -> dict[str, Any]:
    """Without what says nothing new: a client of the release before refuses a field it lacks."""
    record = dataclasses.asdict(preprocessing)
    new = {"short_side": None, "done_by": "client"}
    return {name: value for name, value in record.items() if new.get(name, ...) != value}


def properties_from_map(properties: Mapping[str, str]) -> ModelProperties:
    """Read what a server sent; keys that are not ours are left alone.

    Raises:
        ManifestError: One of our keys holds what this release cannot read.
    """
    preprocessing, labels = None, None
    if PREPROCESSING in properties:
        data = _json(properties, PREPROCESSING, dict, "an object")
        preprocessing = record_from_data(Preprocessing, data, f"the server's {PREPROCESSING}")
    if LABELS in properties:
        data = _json(properties, LABELS, list, "a list of names")
        labels = tuple(str(label) for label in data)
    return ModelProperties(
        preprocessing, labels, properties.get(PROOF), properties.get(PROVED_HERE)
    )


def _json(properties: Mapping[str, str], key: str, kind: type, wanted: str) -> Any:
    try:
        value = json.loads(properties[key])
    except ValueError as error:
        raise ManifestError(f"the server's {key} is not JSON: {error}") from error
    if not isinstance(value, kind):
        raise ManifestError(f"the server's {key} holds a {type(value).__name__}; wanted {wanted}")
    return value
