"""``Client`` and ``AsyncClient`` against the real server: the same calls, the same answers."""

from __future__ import annotations

import asyncio
import itertools
import subprocess

import numpy as np
import pytest

from runtime.cli import main
from runtime.client import Client
from runtime.client_async import AsyncClient
from runtime.client_steps import Retry
from runtime.client_wire import Tls
from runtime.errors import DeadlineExceeded, InvalidInput, NotFound, Unavailable

X = np.random.RandomState(0).standard_normal((20, 4)).astype(np.float32)


class Awaited:
    """An ``AsyncClient`` whose calls are awaited here, so that one test does for both."""

    def __init__(self, url, **options):
        self.runner = asyncio.Runner()

        async def make():
            return AsyncClient(url, **options)

        self.client = self.runner.run(make())

    def __getattr__(self, name):
        method = getattr(self.client, name)
        return lambda *args, **options: self.runner.run(method(*args, **options))

    def stream(self, *args, **options):
        answers = self.client.stream(*args, **options)
        with_end = object()
        while (answer := self.runner.run(anext(answers, with_end))) is not with_end:
            yield answer

    def close(self):
        self.runner.run(self.client.close())


@pytest.fixture(scope="module")
def server(start_server, toy_writer, tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    toy_writer(repository, "linear")
    toy_writer(repository, "slow")
    return start_server(repository, "--drain-seconds", "0")


@pytest.fixture(params=[Client, Awaited], ids=["sync", "async"])
def open_client(request):
    """Either client; closed at the end."""
    opened = []

    def open_client(*arguments, **options):
        opened.append(request.param(*arguments, **options))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()
        if isinstance(client, Awaited):
            client.runner.close()


@pytest.fixture
def client(open_client, server):
    return open_client(server.address, timeout_s=30)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", "key.pem", "-out", "cert.pem",
        ],
        cwd=folder, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


def test_the_server_and_its_models_are_seen(client):
    client.wait_ready(30)
    assert client.live()
    assert client.ready()
    assert client.model_ready("linear")
    assert not client.model_ready("nothing")
    assert client.server_metadata().name == "twinport"
    assert client.model_metadata("linear").inputs[0].name == "x"
    assert client.model_config("linear").max_batch_size == 8


def test_more_rows_than_the_maximum_come_back_whole_and_in_order(client, toys):
    answer = client.infer("linear", {"x": X}, outputs=["y", "total"])
    right = toys["linear"].compute({"x": X})
    np.testing.assert_allclose(answer["y"], right["y"], atol=1e-5)
    np.testing.assert_allclose(answer["total"], right["total"][:, None], atol=1e-5)


def test_a_closed_client_says_so(open_client, server):
    client = open_client(server.address)
    client.close()
    client.close()
    for call in (
        client.live,
        lambda: client.wait_ready(30),
        lambda: client.infer("linear", {"x": X}),
        lambda: list(client.stream("linear", [{"x": X[:2]}])),
    ):
        with pytest.raises(InvalidInput, match=rf"client of {server.address} is closed") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_errors_are_those_of_the_tree(client):
    with pytest.raises(NotFound, match="'nothing' is not known"):
        client.infer("nothing", {"x": X[:1]})
    with pytest.raises(InvalidInput, match="the model wants"):
        client.infer("linear", {"x": X[:1, :3]})


def test_a_deadline_holds(client):
    arrays = {"x": np.ones((1, 256), np.float32), "times": np.array([100_000])}
    with pytest.raises(DeadlineExceeded):
        client.infer("slow", arrays, timeout_s=0.05)


def test_a_stream_answers_each_request_and_goes_on_after_an_error(client, toys):
    requests = [{"x": X[:2]}, {"x": X[:2, :3]}, {"x": X[2:5]}]
    first, wrong, last = client.stream("linear", requests)
    assert [answer.request_id for answer in (first, wrong, last)] == ["0", "1", "2"]
    assert "the model wants" in str(wrong.error)
    right = toys["linear"].compute({"x": X[2:5]})["y"]
    np.testing.assert_allclose(last.outputs["y"], right, atol=1e-5)


def test_a_stream_answers_before_all_is_sent(client):
    for answer in client.stream("linear", ({"x": X[:1]} for _ in itertools.count())):
        assert answer.outputs["y"].shape == (1, 3)
        if answer.request_id == "5":
            break


def test_a_request_that_cannot_be_made_ends_the_stream_with_its_own_error(client):
    def requests():
        yield {"x": X[:1]}
        raise ZeroDivisionError("not ours")

    with pytest.raises(ZeroDivisionError, match="not ours"):
        list(client.stream("linear", requests()))


@pytest.mark.needs_tool("openssl", "apt-get install openssl")
def test_tls_and_the_certificate_that_it_wants(
    open_client, certificate, start_server, write_toy, repository
):
    write_toy("linear")
    cert, key = certificate
    server = start_server(repository, "--tls-cert", str(cert), "--tls-key", str(key))
    client = open_client(server.address, tls=Tls(ca=cert), token="secret")
    assert client.infer("linear", {"x": X[:1]})["y"].shape == (1, 3)
    bench = ["bench", "linear", "--url", server.address, "--tls-ca", str(cert)]
    assert main([*bench, "--concurrency", "1", "--requests", "3", "--warm-up", "0"]) == 0
    for tls in (None, Tls()):
        other = open_client(server.address, tls=tls, timeout_s=5, retry=Retry(attempts=1))
        with pytest.raises((Unavailable, DeadlineExceeded)):
            other.live()
