"""What a server can be told, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.errors import InvalidInput
from runtime.settings import ServerSettings


def test_the_state_lies_where_the_user_keeps_such_things(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere/state")
    assert ServerSettings(Path("r")).state == Path("/somewhere/state/twinport")


@pytest.mark.parametrize("value", [None, "", "relative/folder"])
def test_the_state_lies_in_the_home_folder_where_nothing_is_said(monkeypatch, value):
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("XDG_STATE_HOME", value)
    assert ServerSettings(Path("r")).state == Path("/home/somebody/.local/state/twinport")


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"port": 65536}, "port is 65536; wanted 0 to 65535"),
        ({"port": -1}, "port is -1"),
        ({"host": ""}, "host is empty"),
        ({"threads": 0}, "threads is 0; wanted 1 to"),
        ({"drain_seconds": -1.0}, "drain_seconds is -1.0"),
        ({"drain_seconds": float("nan")}, "drain_seconds is nan"),
        ({"max_message_mb": 2048}, "max_message_mb is 2048; wanted 1 to 2047"),
        ({"unproved": "maybe"}, "unproved is 'maybe'; wanted refuse or allow"),
        ({"device": "tpu"}, "device is 'tpu'; wanted cpu or cuda"),
        ({"engine_code": "yes"}, "engine_code is 'yes'; wanted refuse or allow"),
        ({"model_control": "all"}, "model_control is 'all'; wanted none or explicit or poll"),
        ({"load_models": ("a",)}, "model_control 'none', which loads everything; use explicit"),
        ({"poll_seconds": 0.0}, "poll_seconds is 0.0; wanted 0.05 to 86400"),
        ({"poll_seconds": float("nan")}, "poll_seconds is nan"),
        ({"experts_load": 1.5}, "experts_load is 1.5; wanted 0"),
        ({"experts_load": float("nan")}, "experts_load is nan"),
        ({"shadow_seed": -1}, "shadow_seed is -1; wanted 0 or more"),
        ({"workers": 2, "model_control": "explicit"}, "use 1 with model_control explicit"),
    ],
)
def test_what_no_server_can_do_is_refused(wrong, text):
    with pytest.raises(InvalidInput, match=text):
        ServerSettings(Path("r"), **wrong)
