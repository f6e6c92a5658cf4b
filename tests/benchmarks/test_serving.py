"""What the benchmark of the served model says is what was measured, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import serving_tables

    return serving_tables


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import serving_load

    return serving_load


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import serving_peers

    return serving_peers


@pytest.fixture
def python_with(tmp_path):
    """A stand-in for the Python of an environment with some packages."""

    def python_with(*packages):
        for name in packages:
            (tmp_path / "packages" / name).mkdir(parents=True)
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\necho {tmp_path}/packages\n")
        program.chmod(0o755)
        return str(program)

    return python_with


@pytest.mark.parametrize("name", ["triton", "mlserver", "ray"])
def test_a_peer_that_its_environment_lacks_is_named_and_not_run(name, peers, python_with, tmp_path):
    starter = peers.PEERS[name](python_with())
    with pytest.raises(peers.NotRun, match=f"has no (nvidia-py)?{name}"):
        starter(tmp_path, tmp_path, 1)


def test_ray_runs_only_where_nobody_outside_can_reach_it(peers, python_with, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    with pytest.raises(peers.NotRun, match="it would listen on eth0 too"):
        peers.ray(python_with("ray/serve"))(tmp_path, tmp_path, 1)


def server(**rates):
    cases = {
        key.replace("_", "/"): {
            "requests_per_second": values,
            "images_per_second": [64 * value for value in values],
            "p99_ms": [1.0] * len(values),
            "cpu_us_per_request": [50.0] * len(values),
        }
        for key, values in rates.items()
    }
    return {"ready_s": [1.0], "resident_mb": [99.0], "exit_ms": [20.0], "cases": cases}


@pytest.fixture
def record():
    levels = ("1", "8", "32", "4x64")
    return {
        "rounds": 2,
        "machine": "2 cores",
        "versions": {"grpcio": "1"},
        "limit": {"64": [64000.0, 32000.0]},
        "servers": {
            "envoy": server(**{level: [1500.0, 900.0] for level in levels}),
            "triton": server(**{level: [1000.0, 500.0] for level in levels}),
        },
        "not_run": {"mlserver": "not asked for"},
    }


@pytest.mark.parametrize("document", ["docs/speed.md", "README.md"])
def test_the_measured_tables_are_the_benchmarks_record(document, tables):
    text = (ROOT / document).read_text("utf-8")
    record = json.loads((ROOT / "benchmarks/results/serving.json").read_text("utf-8"))
    write = tables.with_tables if document == "docs/speed.md" else tables.with_summary
    assert write(text, record) == text


def test_the_table_of_the_steps_is_the_profiles_record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import serving_profile

    text = (ROOT / "docs/speed.md").read_text("utf-8")
    record = json.loads((ROOT / "benchmarks/results/serving_profile.json").read_text("utf-8"))
    assert serving_profile.with_table(text, record) == text


def test_ratios_are_those_of_one_round(record, tables):
    texts = dict(tables.judged(record))
    assert texts["envoy at 8 in flight: 1.65 (1.50 to 1.80) of triton's requests/s, wanted 1.4"]
    assert texts["envoy with 64 images a request, 4 in flight: 1.65 (1.50 to 1.80) of in-process, "
                 "wanted 0.8"]  # fmt: skip


def test_what_runs_without_a_service_has_a_line_and_no_row(record, tables):
    assert "alone" not in tables.tables_from_record(record)
    record["servers"]["bare envoy"] = server(**{"1": [1800.0, 1700.0]})
    text = tables.tables_from_record(record)
    assert "alone, 1 in flight: `bare envoy` 1,750 requests/s, 2.60 of triton's." in text
    assert "| bare envoy" not in text + tables.summary_from_record(record)


def test_what_was_not_measured_does_not_hold(record, tables):
    del record["servers"]["triton"]
    holds = [holds for text, holds in tables.judged(record) if "triton" in text]
    assert holds == [None] * 7


def test_a_slower_server_does_not_hold(record, tables):
    rates = record["servers"]["envoy"]["cases"]["32"]
    rates["requests_per_second"] = [1000.0, 600.0]
    rates["p99_ms"] = [2.0, 2.0]
    failed = [text for text, holds in tables.judged(record) if holds is False]
    assert [text.split(":")[0] for text in failed] == ["envoy at 32 in flight"] * 2


def test_the_tables_name_what_was_not_run(record, tables):
    assert "Not run: mlserver: not asked for." in tables.tables_from_record(record)


OUTPUT = """finished in 812.42ms, 12000.00 req/s, 1.00MB/s
requests: 100 total, 100 started, 100 done, {good} succeeded, {bad} failed, 0 errored, 0 timeout
traffic: 1.00MB (1000000) total, 1.00KB (1000) headers (space savings 95.00%), 1.00KB ({data}) data
"""


def test_answers_that_are_all_whole_are_taken(load):
    output = OUTPUT.format(good=100, bad=0, data=100 * 85)
    load._check(output, 100, 80, load.Case(8))
    assert load._finished(output) == pytest.approx(0.81242)


@pytest.mark.parametrize(("good", "data"), [(99, 99 * 85), (100, 85 * 90), (100, 0)])
def test_errors_under_a_200_are_found(load, good, data):
    output = OUTPUT.format(good=good, bad=100 - good, data=data)
    with pytest.raises(load.LoadFailed):
        load._check(output, 100, 80, load.Case(8))
