"""Settings on their way into a process that this one starts or becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.settings import ServerSettings

VARIABLE = "TWINPORT_SERVE"
"""The environment variable that carries them."""
LISTEN = "listen"
"""Tells a worker to take requests from now on."""
SNAPSHOT = "snapshot"
"""Asks a worker what it did so far; a number follows, which comes back with the answer."""
REGIONS = "regions"
"""Tells a worker the shared memory regions of all; a number follows, as above, and the list."""
ANSWER = "answer"
"""Tells a worker what it asked for under the number that follows."""
TOTALS = "totals"
"""What a worker asks for: what all of them did."""


def settings_to_text(settings: ServerSettings, **extra: Any) -> str:
    """Settings, and whatever else the other process is to know, as one line."""
    fields = {name: _plain(value) for name, value in vars(settings).items()}
    return json.dumps({"settings": fields, **extra})


def settings_from_text(text: str) -> tuple[ServerSettings, dict[str, Any]]:
    """What ``settings_to_text`` was given."""
    extra = json.loads(text)
    fields = extra.pop("settings")
    return ServerSettings(**{name: _restored(value) for name, value in fields.items()}), extra


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return {"path": str(value)}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return Path(value["path"])
    return tuple(_restored(item) for item in value) if isinstance(value, list) else value
