"""TLS, the same over every transport: what is refused, who is let in, what a client is told."""

from __future__ import annotations

import subprocess
import sys

import grpc
import pytest

from runtime.client import Client
from runtime.client_steps import Retry
from runtime.client_wire import Tls
from runtime.errors import Unavailable

pytestmark = pytest.mark.needs_tool("openssl", "apt-get install openssl")

ONCE = Retry(attempts=1)
PROGRAM = "import sys; from runtime.cli import main; sys.exit(main())"


@pytest.fixture
def tls_server(start, transport, certificates):
    def tls_server(*options):
        server = start(
            transport, "--tls-cert", str(certificates / "server.pem"),
            "--tls-key", str(certificates / "server.key"), *options,
        )  # fmt: skip
        return f"localhost:{server.address.rpartition(':')[2]}"

    return tls_server


def test_with_tls_only_clients_whose_certificate_is_signed_are_let_in(
    tls_server, certificates, raw, failure
):
    address = tls_server("--tls-client-ca", str(certificates / "ca.pem"))
    ca = (certificates / "ca.pem").read_bytes()
    own = [(certificates / name).read_bytes() for name in ("client.key", "client.pem")]
    right = grpc.ssl_channel_credentials(ca, *own)
    with grpc.secure_channel(address, right) as channel:
        assert raw(channel, "ServerLive")(b"", timeout=30)
    for wrong in (grpc.ssl_channel_credentials(ca), grpc.ssl_channel_credentials(None, *own)):
        with grpc.secure_channel(address, wrong) as channel:
            code, _ = failure(raw(channel, "ServerLive"), b"", timeout=30)
            assert code is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(address) as channel:
        code, _ = failure(raw(channel, "ServerLive"), b"", timeout=30)
        assert code is grpc.StatusCode.UNAVAILABLE


def test_files_that_cannot_serve_are_said_before_anything_listens(
    run_to_the_end, models, certificates, tmp_path
):
    def files(cert, key, *more):
        return ("--tls-cert", cert, "--tls-key", key, *more)

    server = certificates / "server.pem", certificates / "server.key"
    for options, text in (
        (files(tmp_path, server[1]), f"{tmp_path} cannot be read: Is a directory"),
        (files(server[0], certificates / "none"), "none cannot be read: No such file"),
        (files(server[1], server[1]), "server.key holds no certificate in PEM form"),
        (files(server[0], server[0]), "server.pem holds no private key in PEM form"),
        (files(server[0], certificates / "client.key"), "client.key is not that of the certif"),
        (
            files(certificates / "old.pem", certificates / "old.key"),
            "old.pem expired on 2020-01-02",
        ),
        (files(*server, "--tls-client-ca", server[1]), "server.key holds no certificate"),
        (files(*server, "--tls-client-ca", certificates / "old.pem"), "old.pem expired on 2020"),
        (("--tls-client-ca", certificates / "ca.pem"), "without tls_cert and tls_key"),
        (("--tls-key", server[1]), "both a certificate and its key"),
    ):
        ran = run_to_the_end(models, "--port", "0", *options)
        assert (ran.returncode, ran.stdout) == (1, ""), options
        (line,) = ran.stderr.splitlines()
        assert text in line


def said(address, tls):
    with Client(address, tls=tls, retry=ONCE) as client, pytest.raises(Unavailable) as caught:
        client.live()
    return str(caught.value)


def test_a_client_is_told_why_the_handshake_failed(tls_server, server, certificates):
    ca, stranger = certificates / "ca.pem", certificates / "stranger.pem"
    address = tls_server()
    with Client(address, tls=Tls(ca)) as client:
        assert client.live()
    assert "is not trusted (unable to get local issuer" in said(address, Tls(stranger))
    assert "wants clients with TLS" in said(address, None)
    assert "does not speak TLS" in said(server.address, Tls(ca))
    mutual = tls_server("--tls-client-ca", str(ca))
    for own in ((), (stranger, certificates / "stranger.key")):
        assert "certificate" in said(mutual, Tls(ca, *own))


def test_a_certificate_of_another_host_is_said(start, transport, certificates):
    files = [str(certificates / f"elsewhere.{kind}") for kind in ("pem", "key")]
    server = start(transport, "--tls-cert", files[0], "--tls-key", files[1])
    text = said(server.address, Tls(certificates / "ca.pem"))
    assert text.startswith(f"the certificate of the server at {server.address} is that of another")


def test_a_command_says_a_failed_handshake_in_one_line(tls_server, certificates):
    # By "localhost" the last error may be that of ::1, where nobody listens.
    url = tls_server().replace("localhost", "127.0.0.1")
    options = ("--url", url, "--tls-ca", certificates / "stranger.pem")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, "bench", "linear", *map(str, options)],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    (line,) = ran.stderr.splitlines()
    assert "is not trusted" in line
