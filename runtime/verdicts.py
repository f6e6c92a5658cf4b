"""What replays found on this machine, kept in the server's state folder.

A verdict holds for one artifact, one piece of evidence and one backend, provider, device
and library. Every start runs the replay again, because a driver or an environment variable
is in no key; the record tells what had passed here before, and when.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runtime.backends.base import BackendIdentity
from runtime.layout import write_atomically
from runtime.manifest import Manifest
from runtime.replay import Replayed

FOLDER = "verdicts"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PastVerdict:
    """The record of an earlier replay."""

    verdict: str
    when: str
    """UTC, ISO 8601."""


class VerdictStore:
    """The verdicts below one folder; the folder is made when the first one is written."""

    def __init__(self, state: Path) -> None:
        self._folder = state / FOLDER

    def last(self, manifest: Manifest, identity: BackendIdentity) -> PastVerdict | None:
        """The latest verdict on this artifact here; none where there is none to be read."""
        try:
            record = json.loads(self._path(manifest, identity).read_text(encoding="utf-8"))
            return PastVerdict(str(record["verdict"]), str(record["when"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, manifest: Manifest, replayed: Replayed) -> None:
        """Write a verdict down; a folder that cannot be written is a warning in the log."""
        record = {
            "model": manifest.name,
            "version": manifest.version,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            **_key(manifest, replayed.identity),
            "verdict": replayed.verdict,
            "reason": replayed.reason,
            "judgements": [dataclasses.asdict(item) for item in replayed.judgements],
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._path(manifest, replayed.identity)
            write_atomically(path, json.dumps(record, indent=2) + "\n")
        except OSError as error:
            logger.warning(
                "the state folder %s cannot be written (%s); the verdict on %s/%s is not kept",
                self._folder, error.strerror or error, manifest.name, manifest.version,
            )  # fmt: skip

    def _path(self, manifest: Manifest, identity: BackendIdentity) -> Path:
        key = json.dumps(_key(manifest, identity), sort_keys=True)
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _key(manifest: Manifest, identity: BackendIdentity) -> dict[str, str | None]:
    return {
        "artifact_sha256": manifest.artifact.sha256,
        "evidence_sha256": manifest.evidence.sha256 if manifest.evidence else None,
        **dataclasses.asdict(identity),
    }
