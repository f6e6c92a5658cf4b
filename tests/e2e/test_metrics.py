"""Metrics of the real server process, counted against the requests that were sent."""

from __future__ import annotations

import json
import subprocess
import sys
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from protos import SERVICE, RepositoryModelUnloadRequest
from runtime.client import Client
from runtime.errors import InvalidInput, NotFound

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
LINEAR = {"model": "linear", "version": "1"}


@pytest.fixture(scope="module")
def server(start_server, toy_writer, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    toy_writer(repository, "linear")
    toy_writer(repository, "linear", name="goes")
    return start_server(
        repository, "--log-format", "json", "--model-control", "explicit",
        "--load-model", "linear", "--load-model", "goes",
    )  # fmt: skip


@pytest.fixture
def scrape(server):
    def scrape():
        with urlopen(server.metrics) as answer:
            text = answer.read().decode()
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    return scrape


def names_of(scraped, model):
    return {name for name, *labels in scraped if ("model", model) in labels}


def grown(before, after, name, **labels):
    key = (name, *sorted(labels.items()))
    return after[key] - before.get(key, 0)


def test_what_was_sent_is_what_is_counted(server, scrape):
    before = scrape()
    with Client(server.address) as client:
        for _ in range(5):
            client.infer("linear", {"x": X})
    after = scrape()
    assert grown(before, after, "nv_inference_request_success_total", **LINEAR) == 5
    assert grown(before, after, "nv_inference_count_total", **LINEAR) == 15
    assert grown(before, after, "nv_inference_exec_count_total", **LINEAR) == 5
    assert grown(before, after, "nv_inference_request_duration_us_total", **LINEAR) > 0
    for name in ("queue", "compute", "request"):
        assert grown(before, after, f"twinport_{name}_seconds_count", **LINEAR) == 5
    assert grown(before, after, "twinport_batch_rows_sum", **LINEAR) == 15
    assert after["twinport_model_ready", ("model", "linear"), ("version", "1")] == 1
    assert after["nv_inference_pending_request_count", *sorted(LINEAR.items())] == 0


def test_what_fails_is_counted_and_logged_in_json(server, scrape):
    before = scrape()
    with Client(server.address) as client:
        with pytest.raises(NotFound):
            client.infer("linear", {"x": X}, version="9", request_id="r9")
        with pytest.raises(InvalidInput):
            client.infer("linear", {"x": X[:, :2]})
    after = scrape()
    for code in ("NOT_FOUND", "INVALID_ARGUMENT"):
        labels = {"method": "ModelInfer", "code": code}
        assert grown(before, after, "twinport_failed_calls_total", **labels) == 1
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    (line,) = [line for line in lines if line.get("id") == "r9"]
    assert (line["model"], line["version"], line["code"]) == ("linear", "9", "NOT_FOUND")
    assert line["level"] == "WARNING"


def test_the_process_is_there(scrape):
    assert scrape()["process_resident_memory_bytes",] > 1e6


def test_an_unloaded_model_vanishes_but_for_its_readiness(server, scrape):
    assert len(names_of(scrape(), "goes")) > 20
    request = RepositoryModelUnloadRequest(model_name="goes").SerializeToString()
    with grpc.insecure_channel(server.address) as channel:
        channel.unary_unary(f"/{SERVICE}/RepositoryModelUnload")(request)
    after = scrape()
    assert names_of(after, "goes") <= {"twinport_model_ready"}
    assert after.get(("twinport_model_ready", ("model", "goes"), ("version", "1")), 0) == 0
    assert names_of(after, "linear")


def test_a_server_may_have_no_metrics(start_server, write_toy, repository):
    write_toy("linear")
    server = start_server(repository, "--no-metrics")
    assert not server.metrics
    assert server.stop() == 0


def test_a_taken_port_for_metrics_is_one_line_and_exit_1(server, write_toy, repository):
    write_toy("linear")
    port = server.metrics.split(":")[2].partition("/")[0]
    command = [sys.executable, "-m", "runtime", str(repository), "--port", "0"]
    ran = subprocess.run(
        [*command, "--metrics-port", port], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert f"127.0.0.1:{port} cannot be listened on for metrics: Address already in use" in line
