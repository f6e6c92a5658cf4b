"""Real servers, one of each transport, that every test of this folder runs against."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import grpc
import numpy as np
import pytest

from protos import METHODS, SERVICE
from runtime.codec import request_from_arrays

TRANSPORTS = ("grpcio", "envoy")
LIMIT_MB = 24
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
ALONE = [*UNLIMITED, ("grpc.use_local_subchannel_pool", 1)]


def needs(transport: str) -> None:
    """Skip where the library of a transport is missing."""
    if transport == "envoy" and importlib.util.find_spec("pyvoy") is None:
        pytest.skip("pyvoy is missing; pip install 'twinport[envoy]'")


@pytest.fixture(scope="session")
def models(tmp_path_factory, toy_writer):
    """A repository with one model of each kind."""
    folder = tmp_path_factory.mktemp("repository")
    for kind in ("linear", "slow", "strings"):
        toy_writer(folder, kind)
    # What a model was last asked for tells where its next call runs: one for each test.
    for name in ("slow_late", "slow_left", "slow_gone", "slow_wire"):
        toy_writer(folder, "slow", name=name)
    return folder


@pytest.fixture(scope="session")
def start(start_server, models):
    """Start a server of a transport over the models."""

    def start(transport, *options, repository=models, **how):
        needs(transport)
        more = ("--unproved", "allow", "--transport", transport, *options)
        return start_server(repository, *more, **how)

    return start


@pytest.fixture(scope="session")
def servers(start):
    """The server of each transport, started when it is first asked for."""
    started = {}

    def server(transport):
        if transport not in started:
            started[transport] = start(transport, "--max-message-mb", str(LIMIT_MB))
        return started[transport]

    return server


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request):
    return request.param


@pytest.fixture(scope="session")
def server(servers, transport):
    return servers(transport)


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address, options=ALONE) as channel:
        yield channel


@pytest.fixture(scope="session")
def raw():
    """A call of raw bytes: ``raw(channel, "ModelInfer")(payload)``."""

    def raw(channel, method, service=SERVICE):
        return channel.unary_unary(f"/{service}/{method}")

    return raw


@pytest.fixture
def post_to():
    """Send one request of HTTP/2: ``post_to(server, "ModelInfer", body, more_headers)``."""
    reason = "pyqwest is missing; it comes with pip install 'twinport[envoy]'"
    pyqwest = pytest.importorskip("pyqwest", reason=reason)
    with pyqwest.SyncHTTPTransport(http_version=pyqwest.HTTPVersion.HTTP2) as transport:
        client = pyqwest.SyncClient(transport)

        def post_to(server, method, body, headers=None):
            usual = {"content-type": "application/grpc", "te": "trailers"}
            url = f"http://{server.address}/{SERVICE}/{method}"
            return client.post(url, usual | (headers or {}), content=body)

        yield post_to


@pytest.fixture(scope="session")
def failure():
    """Status and text of the error that a call ends with."""

    def failure(call, *args, **kwargs):
        with pytest.raises(grpc.RpcError) as caught:
            call(*args, **kwargs)
        return caught.value.code(), caught.value.details()

    return failure


@pytest.fixture(scope="session")
def slow_call(raw):
    """Start a request that computes in the server when this returns."""

    def slow_call(channel, times, model="slow", **options):
        arrays = {"x": np.ones((1, 256), np.float32), "times": np.array([times])}
        request = request_from_arrays(arrays, model=model)
        raw(channel, "ServerLive")(b"")
        future = raw(channel, "ModelInfer").future(request.SerializeToString(), **options)
        # A connection that stands keeps the order: once these are answered it has arrived.
        for _ in range(3):
            raw(channel, "ServerLive")(b"")
        return future

    return slow_call


@pytest.fixture(scope="session")
def parsed():
    """The message in the answer to a call."""
    return lambda method, payload: METHODS[method].response.FromString(payload)


@pytest.fixture
def run_to_the_end(transport):
    """Run the server of a transport to its end, where it cannot start."""
    needs(transport)

    def run_to_the_end(*arguments):
        command = [sys.executable, "-m", "runtime", *map(str, arguments), "--transport", transport]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    return run_to_the_end
