"""What the service counts and logs of calls that fail."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import nullcontext

import numpy as np
import pytest

from protos import SERVICE
from runtime.codec import request_from_arrays
from runtime.errors import InvalidInput, NotFound, TwinportError
from runtime.servicer import Call


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


@pytest.mark.parametrize("as_status", [False, True])
async def test_a_failed_request_of_a_stream_is_logged_with_what_it_called_itself(
    servicer, caplog, as_status
):
    """Once, whether its error is an answer or the end of the stream."""

    async def sent():
        for name in ("linear", "other", "other"):
            request = request_from_arrays(
                {"x": np.ones((1, 4), np.float32)}, model=name, version="2", request_id="r7"
            )
            yield request.SerializeToString()

    call = Call(metadata=(("triton_grpc_error", "true"),)) if as_status else Call()
    with pytest.raises(NotFound) if as_status else nullcontext():
        async for _ in servicer.stream(f"/{SERVICE}/ModelStreamInfer", sent(), call):
            pass
    found = [json.loads(r.getMessage()) for r in caplog.records if hasattr(r, "fields")]
    assert len(found) == (1 if as_status else 2)
    assert servicer.failures.counts == {"ModelStreamInfer NOT_FOUND": len(found)}
    for line in found:
        assert (line["method"], line["code"]) == ("ModelStreamInfer", "NOT_FOUND")
        assert (line["model"], line["version"], line["id"]) == ("other", "2", "r7")


@pytest.mark.parametrize(("left_s", "code"), [(0.05, "DEADLINE_EXCEEDED"), (60, "CANCELLED")])
async def test_who_is_cancelled_at_the_deadline_was_too_late(servicer, monkeypatch, left_s, code):
    async def wait(payload, call):
        await asyncio.Event().wait()

    monkeypatch.setitem(servicer._unary, f"/{SERVICE}/ServerLive", wait)
    call = Call(deadline=time.monotonic() + left_s)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await servicer.unary(f"/{SERVICE}/ServerLive", b"", call)
    assert servicer.failures.counts == {f"ServerLive {code}": 1}
