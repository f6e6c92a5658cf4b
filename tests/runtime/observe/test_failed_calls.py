"""What the service counts and logs of calls that fail."""

from __future__ import annotations

import json

import pytest

from protos import SERVICE
from runtime.errors import InvalidInput, NotFound, TwinportError


async def test_a_failed_request_is_logged_with_what_it_called_itself(servicer, ask, caplog):
    with pytest.raises(NotFound):
        await ask(servicer, "ModelInfer", model_name="linear", model_version="7", id="r7")
    (line,) = [json.loads(r.getMessage()) for r in caplog.records if hasattr(r, "fields")]
    assert (line["method"], line["code"]) == ("ModelInfer", "NOT_FOUND")
    assert (line["model"], line["version"], line["id"]) == ("linear", "7", "r7")
    assert line["ms"] >= 0
    assert servicer.failures.counts == {"ModelInfer NOT_FOUND": 1}


async def test_bytes_that_are_no_request_are_logged_without_names(servicer, ask, caplog):
    with pytest.raises(InvalidInput):
        await ask(servicer, "ModelInfer", b"\xff\xff")
    (line,) = [json.loads(r.getMessage()) for r in caplog.records if hasattr(r, "fields")]
    assert (line["code"], line["model"]) == ("INVALID_ARGUMENT", "")


async def test_a_defect_is_logged_as_what_the_client_gets(servicer, ask, caplog, monkeypatch):
    async def fail(payload, call):
        raise ZeroDivisionError

    monkeypatch.setitem(servicer._unary, f"/{SERVICE}/ServerLive", fail)
    with pytest.raises(TwinportError, match="internal error"):
        await ask(servicer, "ServerLive")
    assert servicer.failures.counts == {"ServerLive INTERNAL": 1}
