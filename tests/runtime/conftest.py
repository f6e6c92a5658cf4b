"""The program as a function, and a server whose answers the test writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import pytest

from protos import METHODS, SERVICE
from runtime.cli import main

Handler = Callable[[Any, grpc.ServicerContext], Any]


class Ran(NamedTuple):
    """What a run of the program left."""

    code: int
    out: str
    err: str


@pytest.fixture
def twinport(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Run ``twinport`` with arguments in this process; logging is put back afterwards."""
    loggers = [logging.getLogger(name) for name in ("exporter", "models", "runtime")]
    levels = [logger.level for logger in loggers]

    def run(*argv: object) -> Ran:
        code = main([str(item) for item in argv])
        return Ran(code, *capsys.readouterr())

    yield run
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture
def serve_with() -> Iterator[Callable[..., str]]:
    """Start a server with one function a call (``ModelInfer=...``); returns its address."""
    servers: list[grpc.Server] = []

    def start(address: str = "127.0.0.1:0", **handlers: Handler) -> str:
        server = grpc.server(ThreadPoolExecutor(4))
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                handler,
                request_deserializer=METHODS[name].request.FromString,
                response_serializer=METHODS[name].response.SerializeToString,
            )
            for name, handler in handlers.items()
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        port = server.add_insecure_port(address)
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None).wait()
