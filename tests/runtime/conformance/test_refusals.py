"""A server that cannot start says why in one line; what it opens besides its port is nothing."""

from __future__ import annotations

import os
from pathlib import Path


def test_what_is_wrong_is_one_line_and_exit_1(run_to_the_end, server, models, tmp_path):
    port, metrics_port = server.address.split(":")[1], server.metrics.split(":")[2].split("/")[0]
    (tmp_path / "empty").mkdir()
    pem = tmp_path / "wrong.pem"
    pem.write_text("no certificate")
    tls = ("--tls-cert", pem, "--tls-key", pem)
    for arguments, text in (
        (("nowhere", "--port", "0"), "the repository nowhere is not a folder"),
        ((tmp_path / "empty", "--port", "0"), "holds no models"),
        ((models, "--port", port), f"127.0.0.1:{port} cannot be listened on: Address already"),
        ((models, "--port", "0", "--metrics-port", metrics_port), "cannot be listened on for"),
        ((models, "--port", "0", "--host", "192.0.2.1"), "192.0.2.1:0 cannot be listened on"),
        ((models, "--port", "0", *tls), "wrong.pem holds no certificate in PEM form"),
        ((models, "--port", "0", "--tls-cert", pem), "both a certificate and its key"),
        ((models, "--port", "0", *tls[:3], "nowhere.pem"), "nowhere.pem cannot be read"),
    ):
        ran = run_to_the_end(*arguments)
        assert ran.returncode == 1, arguments
        assert ran.stdout == "", arguments
        (line,) = ran.stderr.splitlines()
        assert text in line


def test_a_server_listens_where_it_says_and_nowhere_else(server):
    listed = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for text in listed for line in text.splitlines()[1:]]
    listening = {row[9]: int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A"}
    links = [os.readlink(item) for item in Path(f"/proc/{server.process.pid}/fd").iterdir()]
    ports = {listening.get(link[8:-1]) for link in links if link.startswith("socket:[")} - {None}
    said = {
        int(address.split(":")[-1].split("/")[0]) for address in (server.address, server.metrics)
    }
    assert ports == said


def test_envoy_takes_the_place_of_the_program_and_leaves_its_surroundings_alone(servers):
    server = servers("envoy")
    process = Path(f"/proc/{server.process.pid}")
    assert (process / "exe").resolve().name == "envoy"
    assert (process / "cwd").resolve() == Path.cwd()
    assert not list((process / "task" / str(server.process.pid)).glob("children/*"))
    assert "[warning]" not in server.log.read_text()
