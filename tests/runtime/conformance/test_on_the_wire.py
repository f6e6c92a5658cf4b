"""What grpcio's client does by itself or hides: seen with a plain client of HTTP/2."""

from __future__ import annotations

import gzip
from functools import partial

import numpy as np
import pytest

from runtime.codec import request_from_arrays
from runtime.errors import Status
from runtime.transports.wire import framed, framed_gzip

SLOW = {"x": np.ones((1, 256), np.float32), "times": np.array([100_000])}
FIRST = {"x": np.ones((1, 256), np.float32), "times": np.array([2_000])}
TAKES_GZIP = {"grpc-accept-encoding": "identity, gzip"}


@pytest.fixture
def post(post_to, server):
    return partial(post_to, server)


def status_of(answer):
    """From the trailers, or from the headers where an answer is nothing but a status."""
    return int(answer.trailers.get("grpc-status") or answer.headers["grpc-status"])


def infer_bytes(arrays):
    return request_from_arrays(arrays, model="slow_wire").SerializeToString()


def test_the_server_itself_ends_what_is_too_late(post):
    assert status_of(post("ModelInfer", framed(infer_bytes(FIRST)))) == Status.OK
    late = {"grpc-timeout": "100m"}
    answer = post("ModelInfer", framed(infer_bytes(SLOW)), late)
    assert status_of(answer) == Status.DEADLINE_EXCEEDED


def test_an_answer_is_a_message_and_a_status_behind_it(post):
    answer = post("ServerLive", framed(b""))
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/grpc"
    assert answer.content == framed(b"\x08\x01")
    assert status_of(answer) == Status.OK


def test_texts_are_percent_encoded(post):
    wrong = request_from_arrays({"x": np.ones(1)}, model="größe 100%").SerializeToString()
    answer = post("ModelInfer", framed(wrong))
    text = answer.trailers.get("grpc-message") or answer.headers["grpc-message"]
    assert "gr%C3%B6%C3%9Fe 100%25" in text
    assert status_of(answer) == Status.NOT_FOUND


def test_a_compression_that_is_not_known_is_refused(post, transport):
    answer = post("ServerLive", framed_gzip(b""), {"grpc-encoding": "snappy"})
    if transport == "grpcio":
        assert status_of(answer) == Status.INTERNAL  # its library's choice
        return
    assert status_of(answer) == Status.UNIMPLEMENTED
    assert "gzip" in answer.headers["grpc-accept-encoding"]


def test_another_content_type_is_refused(post, transport):
    if transport == "grpcio":
        pytest.skip("grpcio's library resets the stream without an answer")
    answer = post("ServerLive", b"{}", {"content-type": "application/json"})
    assert answer.status == 415


@pytest.fixture(scope="module")
def compressing(start, transport):
    return start(transport, "--compression", "gzip")


def test_answers_are_compressed_where_it_is_set(compressing, post, post_to, transport):
    answer = post_to(compressing, "ServerMetadata", framed(b""), TAKES_GZIP)
    plain = post_to(compressing, "ServerMetadata", framed(b""), {})
    assert answer.headers["grpc-encoding"] == "gzip"
    assert answer.content[0] == 1
    unasked = post("ServerMetadata", framed(b""), TAKES_GZIP)
    assert gzip.decompress(answer.content[5:]) == unasked.content[5:]
    assert unasked.content[0] == 0
    # grpcio's library does not look at what the client takes.
    assert plain.content[0] == (transport == "grpcio")
