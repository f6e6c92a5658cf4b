"""The real server with every answer computed again: a sound model, and one that ages."""

from __future__ import annotations

import time
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families

from runtime.client import Client
from runtime.errors import Unavailable

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
AGEING = """
import sys
import numpy as np
import runtime.loading
from runtime.backends.ort import OrtBackend
from runtime.cli import main

class Ageing(OrtBackend):
    '''Off by a factor once a request of five rows has come.'''
    factor = np.float32(1)
    def infer(self, arrays, outputs=None):
        if len(arrays["x"]) == 5:
            self.factor = np.float32(1.0001)
        return {k: v * self.factor for k, v in super().infer(arrays, outputs).items()}

runtime.loading.open_backend = lambda _, path, own: Ageing(path, own)
sys.exit(main(["serve", *sys.argv[1:]]))
"""
STUCK = """
import sys, threading
import runtime.shadow.shadow
from runtime.cli import main

runtime.shadow.shadow.compare = lambda *_: threading.Event().wait()
sys.exit(main(["serve", *sys.argv[1:]]))
"""


@pytest.fixture
def repository(tmp_path, toy_writer):
    toy_writer(tmp_path, "linear")
    return tmp_path


def scraped(server, name):
    with urlopen(server.metrics) as answer:
        text = answer.read().decode()
    return {
        (sample.labels.get("outcome") or sample.labels.get("output") or ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"


def ask_until_it_fails(client):
    for _ in range(10_000):
        client.infer("linear", {"x": np.ones((5, 4), np.float32)})


def test_a_sound_model_is_compared_and_ends_at_once(start_server, repository):
    server = start_server(repository, "--shadow", "1.0", "--shadow-action", "unready")
    with Client(server.address) as client:
        answers = [client.infer("linear", {"x": X})["y"] for _ in range(100)]
        until(lambda: sum(scraped(server, "twinport_shadow_requests_total").values()) == 100)
        requests = scraped(server, "twinport_shadow_requests_total")
        assert requests["compared"] + requests["dropped"] == 100
        assert requests["compared"] > 0
        assert scraped(server, "twinport_shadow_rows_total")["compared"] == (
            3 * requests["compared"]
        )
        rms = scraped(server, "twinport_shadow_rms")["y"]
        assert rms < scraped(server, "twinport_shadow_rms_limit")["y"]
        assert scraped(server, "twinport_shadow_drifting") == {"": 0}
        assert len(answers) == 100
    assert server.stop() == 0
    assert "cut off" not in server.log.read_text()


def test_a_model_that_ages_leaves_service_and_health_says_so(start_server, repository):
    server = start_server(
        repository, "--shadow", "1", "--shadow-action", "unready", program=("-c", AGEING)
    )
    with grpc.insecure_channel(server.address) as channel, Client(server.address) as client:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest(service="linear"), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(Unavailable, match="it drifts: output 'y' is off the reference"):
            ask_until_it_fails(client)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert scraped(server, "twinport_shadow_drifting") == {"": 1}
        assert scraped(server, "twinport_model_ready") == {"": 0}
        watch.cancel()
    assert server.stop() == 0
    assert "linear/1 drifts from its reference" in server.log.read_text()


def test_a_reference_that_hangs_delays_neither_answers_nor_the_end(start_server, repository):
    server = start_server(repository, "--shadow", "1", program=("-c", STUCK))
    with Client(server.address) as client:
        for _ in range(20):
            client.infer("linear", {"x": X})
        # One is stuck and eight wait.
        until(lambda: scraped(server, "twinport_shadow_requests_total")["dropped"] >= 11)
    assert server.stop(timeout_s=20) == 0
    assert "what still runs is cut off" in server.log.read_text()
