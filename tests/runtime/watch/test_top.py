"""Metrics as a table: rates and percentiles between two looks."""

from __future__ import annotations

import itertools
import json
import math
import socket
import threading
import time
from collections import deque
from contextlib import ExitStack, suppress

import pytest

from runtime.errors import InvalidInput
from runtime.observe.collector import exposition
from runtime.observe.endpoint import MetricsEndpoint
from runtime.observe.snapshot import Snapshot, VersionSnapshot, work_of
from runtime.statistics import CallTimes, Failure, Statistics
from runtime.watch.scrape import Look, Numbers, look_at, metrics_url, quantile, rows_between

FOUR_ROWS = CallTimes(4, (2_000_000, 2_000_000), 0, 8_000_000, 0)
LONG_AGO = CallTimes(1, (4_000_000_000,), 0, 4_000_000_000, 0)


@pytest.fixture
def statistics():
    return Statistics()


@pytest.fixture
def endpoint(statistics):
    """Metrics of one model that did what the test lets it do."""

    def snapshot():
        versions = (
            VersionSnapshot("m", 10, True, work_of(statistics, 3)),
            VersionSnapshot("m", 9, False),
        )
        return Snapshot(versions)

    with MetricsEndpoint("127.0.0.1", 0, exposition(snapshot)) as endpoint:
        yield endpoint


def test_rates_and_percentiles_are_those_between_two_looks(endpoint, statistics):
    for _ in range(100):
        statistics.called(LONG_AGO)
    before = look_at(endpoint.url)
    for _ in range(10):
        statistics.called(FOUR_ROWS)
    statistics.failed(Failure.BACKEND, 1)
    statistics.failed(Failure.REJECTED, 1)
    now = look_at(endpoint.url)
    unready, row = rows_between(before, Look(before.at + 2, now.models))
    assert (row.model, row.version, row.ready, row.waiting) == ("m", "10", True, 3)
    assert (row.requests_per_second, row.rows_per_second, row.mean_batch) == (10, 20, 4)
    assert (row.failures, row.failures_per_second) == (2, 1)
    assert 1 < row.queue_ms[0] < row.queue_ms[1] <= 2.5
    assert 5 < row.compute_ms[0] < row.compute_ms[1] <= 10
    assert (unready.version, unready.ready, unready.requests_per_second) == ("9", False, None)


def test_the_first_look_has_no_rates(endpoint, statistics):
    statistics.called(FOUR_ROWS)
    row = rows_between(None, look_at(endpoint.url))[1]
    assert row.requests_per_second is None
    assert row.mean_batch == 4


def test_a_model_that_was_loaded_anew_counts_from_the_beginning(endpoint, statistics):
    for _ in range(3):
        statistics.called(FOUR_ROWS)
    before = look_at(endpoint.url)
    statistics.__init__()
    statistics.called(FOUR_ROWS)
    row = rows_between(before, Look(before.at + 1, look_at(endpoint.url).models))[1]
    assert row.requests_per_second == 2
    assert 1 < row.queue_ms[0] <= 2.5


def test_nothing_done_has_no_percentiles(endpoint):
    look = look_at(endpoint.url)
    row = rows_between(look, Look(look.at + 1, look.models))[1]
    assert (row.requests_per_second, row.mean_batch) == (0, None)
    assert row.queue_ms == row.compute_ms == (None, None)


@pytest.mark.parametrize(("share", "value"), [(0, 0), (0.25, 0.5), (0.5, 1), (0.75, 1.5), (1, 2)])
def test_a_quantile_lies_evenly_inside_its_bucket(share, value):
    assert quantile([(1, 2), (2, 4), (math.inf, 4)], share) == value


def test_what_is_above_all_bounds_is_the_last_of_them():
    assert quantile([(1, 0), (2, 1), (math.inf, 10)], 0.99) == 2
    assert quantile([(1, 0), (math.inf, 0)], 0.5) is None
    assert quantile([], 0.5) is None


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1:8002", "http://127.0.0.1:8002/metrics"),
        ("http://h:1", "http://h:1/metrics"),
        ("https://h/x/metrics", "https://h/x/metrics"),
    ],
)
def test_an_address_may_be_short(text, url):
    assert metrics_url(text) == url


def test_once_prints_one_table(endpoint, twinport):
    ran = twinport("top", "--url", endpoint.url, "--once", "--interval", 0.1)
    assert ran.code == 0, ran.err
    lines = [line.split() for line in ran.out.splitlines()]
    assert [line[:2] for line in lines if line and line[0].startswith("m/")] == [
        ["m/9", "no"], ["m/10", "yes"],
    ]  # fmt: skip


@pytest.mark.parametrize("interval", ["nan", "inf", "0"])
def test_an_interval_that_is_none_is_wrong_usage(interval, endpoint, twinport):
    ran = twinport("top", "--url", endpoint.url, "--interval", interval)
    assert (ran.code, ran.out) == (2, "")
    assert "is not in the range 0.1<=x<=3600" in ran.err


def test_json_is_one_object(endpoint, twinport):
    ran = twinport("top", "--url", endpoint.url, "--once", "--interval", 0.1, "--json")
    _, row = json.loads(ran.out)["models"]
    assert (row["model"], row["waiting"], row["queue_ms"]) == ("m", 3, {"p50": None, "p99": None})


def test_watching_goes_on_until_it_is_interrupted(endpoint, twinport, monkeypatch):
    pauses = deque([None, None, KeyboardInterrupt])

    def sleep(seconds):
        end = pauses.popleft()
        if end:
            raise end

    monkeypatch.setattr("time.sleep", sleep)
    ran = twinport("top", "--url", endpoint.url)
    assert ran.code == 130
    assert "m/10" in ran.out
    assert not pauses


def test_a_server_that_goes_away_while_it_is_watched_is_said_and_waited_for(
    endpoint, twinport, monkeypatch
):
    pauses = deque([endpoint.close, None, KeyboardInterrupt])

    def sleep(seconds):
        turn = pauses.popleft()
        if turn is KeyboardInterrupt:
            raise turn
        if turn:
            turn()

    monkeypatch.setattr("runtime.commands.top.time.sleep", sleep)
    ran = twinport("top", "--url", endpoint.url)
    assert ran.code == 130
    assert "no metrics at" in ran.out


def test_a_server_that_cannot_say_its_metrics_for_a_while_is_waited_for(
    endpoint, twinport, monkeypatch
):
    looks = deque([look_at(endpoint.url), InvalidInput("answers 503"), KeyboardInterrupt()])

    def look(url):
        found = looks.popleft()
        if isinstance(found, BaseException):
            raise found
        return found

    monkeypatch.setattr("runtime.commands.top.look_at", look)
    ran = twinport("top", "--url", endpoint.url, "--interval", 0.1)
    assert ran.code == 130
    assert "answers 503" in ran.out


def test_nobody_there_is_one_line(endpoint, twinport):
    endpoint.close()
    ran = twinport("top", "--url", endpoint.url, "--once")
    assert ran.code == 1
    assert ran.err.startswith(f"twinport: no metrics at {endpoint.url}: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"other_metric 1\n", "has no metrics of models"), (b"{}\n", "format of Prometheus")],
)
def test_metrics_of_something_else_are_refused(text, said, twinport):
    with MetricsEndpoint("127.0.0.1", 0, lambda: text) as other:
        ran = twinport("top", "--url", other.url, "--once")
    assert ran.code == 1
    assert said in ran.err


@pytest.fixture
def answers():
    """A port that answers with these bytes, piece by piece, as long as somebody listens."""
    with ExitStack() as held:

        def answers(*pieces, pause=0.0, forever=False):
            listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))

            def answer():
                with suppress(OSError):
                    while True:
                        talk(listener.accept()[0])

            def talk(connection):
                with connection, suppress(OSError):
                    connection.recv(65536)
                    for piece in itertools.cycle(pieces) if forever else pieces:
                        connection.sendall(piece)
                        time.sleep(pause)

            threading.Thread(target=answer, daemon=True).start()
            held.callback(listener.shutdown, socket.SHUT_RDWR)
            return f"http://127.0.0.1:{listener.getsockname()[1]}/metrics"

        yield answers


OK = b"HTTP/1.0 200 OK\r\n\r\n"
ONE = b'nv_inference_count_total{model="m",version="1"} 1\n'


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ((b"\x00\x00\x12\x04\x00",), "is not HTTP"),
        ((OK, bytes(range(256))), "format of Prometheus"),
        ((OK, b'twinport_queue_seconds_bucket{model="m"} 1\n'), "histogram without bounds"),
        ((b"HTTP/1.0 200 OK\r\nContent-Length: 999\r\n\r\n", ONE), "the answer is cut off"),
    ],
)
def test_what_is_no_answer_with_metrics_is_one_line(pieces, said, answers, twinport):
    ran = twinport("top", "--url", answers(*pieces), "--once")
    assert (ran.code, ran.out) == (1, "")
    (line,) = ran.err.splitlines()
    assert said in line


def test_an_answer_without_an_end_is_not_waited_for(answers, twinport, monkeypatch):
    monkeypatch.setattr("runtime.watch.scrape.TIMEOUT_S", 0.3)
    url = answers(OK, ONE, ONE, pause=0.05, forever=True)
    ran = twinport("top", "--url", url, "--once")
    assert (ran.code, ran.out) == (1, "")
    assert "no end of the answer after 0.3 s" in ran.err


def test_an_answer_that_is_too_long_is_refused(answers, twinport, monkeypatch):
    monkeypatch.setattr("runtime.watch.scrape.MAX_BYTES", 2**20)
    ran = twinport("top", "--url", answers(OK, *[b"#" * 2**16 + b"\n"] * 20), "--once")
    assert ran.code == 1
    assert "answers more than 1 MiB" in ran.err


def test_what_is_no_number_is_shown_as_unknown(answers, twinport):
    text = b"".join(
        b'%s{model="\x1b[31mm",version="1"%s} NaN\n' % sample
        for sample in (
            (b"nv_inference_count_total", b""),
            (b"nv_inference_pending_request_count", b""),
            (b"twinport_queue_seconds_bucket", b',le="+Inf"'),
        )
    )
    ran = twinport("top", "--url", answers(OK, text), "--once", "--interval", 0.1)
    assert ran.code == 0, ran.err
    (row,) = [line.split() for line in ran.out.splitlines() if "31mm/1" in line]
    assert row == ["?[31mm/1", "yes", "-", "-", "-", "0", "-/-", "-/-", "0"]


@pytest.mark.parametrize("counter", ["requests", "rows", "calls", "failures", "bucket"])
def test_a_server_that_began_anew_counts_from_the_beginning(counter):
    names = ("requests", "rows", "calls", "failures")

    def numbers(value, lower):
        sums = {name: value / 2 if name == counter else value for name in names}
        count = value / 2 if counter == "bucket" else value
        buckets = {"queue": {0.1: count, math.inf: count}}
        return Numbers(sums if lower else dict.fromkeys(names, value),
                       buckets if lower else {"queue": {0.1: value, math.inf: value}})  # fmt: skip

    before, now = ({("m", "1"): numbers(8.0, lower)} for lower in (False, True))
    (row,) = rows_between(Look(0.0, before), Look(1.0, now))
    rates = (row.requests_per_second, row.rows_per_second, row.failures_per_second)
    assert rates == tuple(now["m", "1"].sums[name] for name in ("requests", "rows", "failures"))
    assert row.queue_ms[0] == pytest.approx(50)


def test_json_goes_on_after_a_server_that_was_away(endpoint, twinport, monkeypatch):
    looks = [look_at(endpoint.url), InvalidInput("answers 503"), look_at(endpoint.url)]

    def look(url):
        if not looks:
            raise KeyboardInterrupt
        found = looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr("runtime.commands.top.look_at", look)
    ran = twinport("top", "--url", endpoint.url, "--json", "--interval", 0.1)
    assert ran.code == 130
    assert ran.err.startswith("twinport: answers 503\n")
    (line,) = ran.out.splitlines()
    assert json.loads(line)["models"][1]["requests_per_second"] is None


def test_another_page_is_refused(endpoint, twinport):
    ran = twinport("top", "--url", endpoint.url.replace("/metrics", "/other"), "--once")
    assert ran.code == 1
    assert "answers 404" in ran.err
