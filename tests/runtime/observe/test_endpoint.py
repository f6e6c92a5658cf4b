"""The HTTP side of the metrics."""

from __future__ import annotations

import asyncio
import http.client
import socket
import threading
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from runtime.errors import InvalidInput
from runtime.observe.endpoint import MAX_CONNECTIONS, MetricsEndpoint, on_loop


@pytest.fixture
def endpoint():
    with MetricsEndpoint("127.0.0.1", 0, lambda: b"text 1\n") as endpoint:
        yield endpoint


def test_metrics_are_answered_as_prometheus_wants_them(endpoint):
    with urlopen(endpoint.url) as answer:
        assert answer.read() == b"text 1\n"
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    with urlopen(Request(endpoint.url, method="HEAD")) as answer:
        assert answer.headers["Content-Length"] == "7"
        assert answer.read() == b""


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [("GET", "/", 404), ("GET", "/metrics/x", 404), ("POST", "/metrics", 501)],
)
def test_nothing_else_is_answered(endpoint, method, path, code):
    url = endpoint.url.removesuffix("/metrics") + path
    with pytest.raises(HTTPError) as caught:
        urlopen(Request(url, method=method))
    assert caught.value.code == code
    caught.value.close()


def test_what_cannot_be_collected_is_503_and_in_the_log(caplog):
    def fail():
        raise ZeroDivisionError("a defect")

    with MetricsEndpoint("127.0.0.1", 0, fail) as endpoint, pytest.raises(HTTPError) as caught:
        urlopen(endpoint.url)
    assert caught.value.code == 503
    caught.value.close()
    assert "ZeroDivisionError" in caplog.text


def test_a_taken_port_is_said_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInput, match=f"{port} cannot be listened on for metrics: Addr"):
            MetricsEndpoint("127.0.0.1", port, bytes)


def test_connections_beyond_the_limit_are_hung_up_on(endpoint):
    port = int(endpoint.url.split(":")[2].partition("/")[0])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(MAX_CONNECTIONS)]
    extra = http.client.HTTPConnection("127.0.0.1", port)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(extra)
    extra.close()
    for connection in silent:
        connection.close()


def test_the_limit_is_of_connections_at_one_time(endpoint):
    for _ in range(MAX_CONNECTIONS + 1):
        with urlopen(endpoint.url) as answer:
            assert answer.status == 200


def ask(connection):
    connection.request("GET", "/metrics")
    connection.getresponse()


def test_after_the_end_nobody_listens():
    endpoint = MetricsEndpoint("127.0.0.1", 0, bytes)
    endpoint.close()
    endpoint.close()
    with pytest.raises(OSError, match="refused"):
        urlopen(endpoint.url)


async def test_a_snapshot_is_taken_on_the_loop():
    ask = on_loop(asyncio.get_running_loop(), threading.get_ident)
    assert await asyncio.to_thread(ask) == threading.get_ident()
