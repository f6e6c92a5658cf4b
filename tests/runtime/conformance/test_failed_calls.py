"""Every call that fails is counted once and has one line, whoever refuses it."""

from __future__ import annotations

import json
import time
from collections import Counter
from functools import partial

import grpc
import numpy as np
import pytest

from runtime.codec import request_from_arrays
from runtime.transports.wire import framed
from runtime.watch.scrape import samples_at

LIMIT = 2**20
SECONDS = 30
LONG = 50_000


def echo_request(size, **named):
    text = np.array([b"x" * size], dtype=object)
    return request_from_arrays({"text": text}, model="strings", **named).SerializeToString()


def slow_request(times):
    arrays = {"x": np.ones((1, 256), np.float32), "times": np.array([times])}
    return request_from_arrays(arrays, model="slow").SerializeToString()


GARBLED = b"\1" + framed(b"no gzip")[1:]
LONGEST = echo_request(LIMIT - len(echo_request(LIMIT)) + LIMIT)
"""A request as long as may be; its answer has the version besides."""
OURS = [
    ("Made", framed(b""), {}, "other UNIMPLEMENTED"),
    ("Up", framed(b""), {}, "other UNIMPLEMENTED"),
    ("ModelInfer", framed(echo_request(9))[:-2], {}, "ModelInfer INVALID_ARGUMENT"),
    ("ModelInfer", b"", {}, "ModelInfer INVALID_ARGUMENT"),
    ("ModelInfer", framed(b"\xff"), {}, "ModelInfer INVALID_ARGUMENT"),
    ("ModelInfer", framed(LONGEST), {}, "ModelInfer RESOURCE_EXHAUSTED"),
    ("ModelStreamInfer", framed(LONGEST), {}, "ModelStreamInfer RESOURCE_EXHAUSTED"),
]
LIBRARYS = [
    ("ServerLive", framed(b"") * 2, {}, "ServerLive INVALID_ARGUMENT"),
    ("ServerLive", framed(b"x" * 2 * LIMIT), {}, "ServerLive RESOURCE_EXHAUSTED"),
    ("ServerLive", GARBLED, {"grpc-encoding": "gzip"}, "ServerLive INVALID_ARGUMENT"),
    ("ServerLive", framed(b""), {"grpc-encoding": "snappy"}, "ServerLive UNIMPLEMENTED"),
    ("ServerLive", framed(b""), {"grpc-timeout": "soon"}, "ServerLive INVALID_ARGUMENT"),
    ("ServerLive", framed(b""), {"x-bin": "!!!"}, "ServerLive INVALID_ARGUMENT"),
    ("ModelStreamInfer", framed(b"x" * 2 * LIMIT), {}, "ModelStreamInfer RESOURCE_EXHAUSTED"),
    ("ModelStreamInfer", framed(b"")[:-1], {}, "ModelStreamInfer INVALID_ARGUMENT"),
]
"""What grpcio's library decides by itself, and does not always refuse."""


@pytest.fixture
def small(start, transport):
    return start(transport, "--max-message-mb", "1", "--log-format", "json")


@pytest.fixture
def post(post_to, small):
    return partial(post_to, small)


def counted(server):
    samples = samples_at(server.metrics)
    found = [item for item in samples if item.name == "twinport_failed_calls_total"]
    return Counter(
        {f"{item.labels['method']} {item.labels['code']}": int(item.value) for item in found}
    )


def lines(server):
    found = [json.loads(line) for line in server.log.read_text().splitlines()]
    return [line for line in found if line.get("event") == "failed_request"]


def check_noted(server, wanted):
    """See these calls counted, and after the end of the server nothing more in its log."""
    end = time.monotonic() + SECONDS
    while counted(server) != wanted:
        assert time.monotonic() < end, (counted(server), wanted)
        time.sleep(0.01)
    assert server.stop() == 0
    found = lines(server)
    assert Counter(f"{line['method']} {line['code']}" for line in found) == wanted
    return found


def test_each_refused_call_is_counted_and_logged_once(small, transport, post):
    cases = OURS + (LIBRARYS if transport == "envoy" else [])
    for method, body, headers, _ in cases:
        post(method, body, headers)
    found = check_noted(small, Counter(wanted for *_, wanted in cases))
    made_up = [line["text"] for line in found if line["method"] == "other"]
    assert ["/Made is not" in made_up[0], "/Up is not" in made_up[1]] == [True, True]
    (late,) = [
        line for line in found
        if line["method"] == "ModelInfer" and line["code"] == "RESOURCE_EXHAUSTED"
    ]  # fmt: skip
    assert late["model"] == "strings"
    assert "an answer of at least" in late["text"]


def test_whatever_is_sent_each_line_of_the_log_is_an_object(small, post):
    post("ServerLive", framed(b""), {"grpc-timeout": "soon"})
    assert small.stop() == 0
    assert all(json.loads(line)["level"] for line in small.log.read_text().splitlines())


def test_what_grpcios_library_refuses_by_itself_is_not_seen(start, raw, failure):
    server = start("grpcio", "--max-message-mb", "1", "--log-format", "json")
    with grpc.insecure_channel(server.address) as channel:
        failure(raw(channel, "ServerLive"), b"x" * 2 * LIMIT)
        failure(raw(channel, "ServerLive"), b"\xff")
        check_noted(server, Counter({"ServerLive INVALID_ARGUMENT": 1}))


def test_a_call_that_ends_with_its_deadline_is_counted_as_that(small, post):
    post("ModelInfer", framed(slow_request(2_000)), {})  # now it counts as slow
    post("ModelInfer", framed(slow_request(LONG)), {"grpc-timeout": "50m"})
    (late,) = check_noted(small, Counter({"ModelInfer DEADLINE_EXCEEDED": 1}))
    assert late["model"] == "slow"
