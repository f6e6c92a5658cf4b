"""Requests of ASGI as a test writes them, to a service whose behaviour it writes too."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest

from runtime.observe.failures import FailureLog
from runtime.transports.asgi import GrpcApp

HEADERS = {b"content-type": b"application/grpc", b"te": b"trailers"}


class Stub:
    """A servicer with one method of each kind; both do what ``behave`` does."""

    unary_methods = ("/a.B/Unary",)
    stream_methods = ("/a.B/Stream",)

    def __init__(self, behave):
        self.behave = behave
        self.failures = FailureLog()

    async def unary(self, method, payload, call):
        answer = self.behave(payload, call)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def stream(self, method, payloads, call):
        async for payload in payloads:
            yield await self.unary(method, payload, call)


@dataclass
class Exchange:
    """One request and what came back; ``gone`` makes its client leave."""

    path: str = "/a.B/Unary"
    parts: list[bytes] = field(default_factory=list)
    headers: dict[bytes, bytes] = field(default_factory=dict)
    version: str = "2"
    ends: bool = True
    """Whether the client says that it sends no more."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    sent: list[dict[str, Any]] = field(default_factory=list)

    async def receive(self):
        if self.gone.is_set():
            return {"type": "http.disconnect"}
        if self.parts:
            body = self.parts.pop(0)
            return {
                "type": "http.request",
                "body": body,
                "more_body": bool(self.parts) or not self.ends,
            }
        if not self.ends:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, event):
        if self.gone.is_set():
            raise OSError("the client has left")
        self.sent.append(event)

    async def run(self, app):
        scope = {
            "type": "http", "http_version": self.version, "path": self.path,
            "headers": list({**HEADERS, **self.headers}.items()),
        }  # fmt: skip
        await app(scope, self.receive, self.send)
        return self

    @property
    def answer_headers(self):
        found = dict(self.sent[0]["headers"])
        if self.sent[-1]["type"] == "http.response.trailers":
            found.update(self.sent[-1]["headers"])
        return found

    @property
    def status(self):
        return int(self.answer_headers[b"grpc-status"])

    @property
    def text(self):
        return unquote(self.answer_headers.get(b"grpc-message", b"").decode())

    @property
    def body(self):
        return b"".join(event.get("body", b"") for event in self.sent)


@pytest.fixture(scope="session")
def exchange():
    """A request that was sent: ``await exchange(behave, parts=[...])``."""

    async def exchange(behave, limit=1000, compress=False, **request):
        return await Exchange(**request).run(GrpcApp(Stub(behave), limit, compress=compress))

    return exchange


@pytest.fixture(scope="session")
def exchange_type():
    return Exchange


@pytest.fixture(scope="session")
def stub():
    return Stub
