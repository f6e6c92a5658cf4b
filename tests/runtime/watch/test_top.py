"""Metrics as a table: rates and percentiles between two looks."""

from __future__ import annotations

import json
import math
from collections import deque

import pytest

from runtime.observe.collector import exposition
from runtime.observe.endpoint import MetricsEndpoint
from runtime.observe.snapshot import Snapshot, VersionSnapshot, work_of
from runtime.statistics import CallTimes, Failure, Statistics
from runtime.watch.scrape import Look, look_at, metrics_url, quantile, rows_between

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


def test_another_page_is_refused(endpoint, twinport):
    ran = twinport("top", "--url", endpoint.url.replace("/metrics", "/other"), "--once")
    assert ran.code == 1
    assert "answers 404" in ran.err
