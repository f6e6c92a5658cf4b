"""Netron's page: one file, to this machine, in a process of its own that goes with its owner."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from exporter.look.netron_page import netron_on
from exporter.look.netron_server import page_about
from runtime.errors import BackendUnavailable, ExportError

NETRON = Path(find_spec("netron").submodule_search_locations[0])
TWINPORT = "import sys; from runtime.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def address(lenet, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    file = folder / "a <net> & more.onnx"
    file.write_bytes((lenet.folder / "model.onnx").read_bytes())
    (folder / "secret.json").write_text("{}")
    with netron_on(file) as found:
        yield found


def answer(address, path, **headers):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read(), response.headers
    finally:
        connection.close()


def test_the_page_shows_the_file_and_neither_asks_nor_reports(address, lenet):
    status, body, headers = answer(address, "/")
    page = body.decode()
    assert status == 200
    assert '<meta name="version" content="0.0.0">' in page
    data = "/data/a%20%3Cnet%3E%20%26%20more.onnx"
    assert f'<meta name="file" content="{data}">' in page
    assert '<meta name="name" content="a &lt;net&gt; &amp; more.onnx">' in page
    assert headers["Set-Cookie"].startswith("consent=1;")
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert answer(address, data)[1] == (lenet.folder / "model.onnx").read_bytes()
    assert answer(address, "/grapher.css")[1] == (NETRON / "grapher.css").read_bytes()


@pytest.mark.parametrize(
    "path",
    ["/data/secret.json", "/data/../secret.json", "/server.py", "/../netron/__init__.py",
     "/%2e%2e/__init__.py", "/data/", "/__pycache__", "//etc/hostname.json"],
)  # fmt: skip
def test_nothing_else_is_handed_out(address, path):
    assert answer(address, path)[0] == 404


@pytest.mark.parametrize("path", ["/", "/data/a%20%3Cnet%3E%20%26%20more.onnx", "/index.js"])
def test_a_name_from_elsewhere_gets_nothing(address, path):
    assert answer(address, path, Host="example.org")[0] == 421
    assert answer(address, path, Host=f"localhost:{urlsplit(address).port}")[0] == 200


def test_two_pages_at_once_show_their_own_files(address, linear):
    with netron_on(linear.folder / "model.onnx") as other:
        wanted = (linear.folder / "model.onnx").read_bytes()
        assert answer(other, "/data/model.onnx")[1] == wanted
        assert answer(address, "/data/model.onnx")[0] == 404


def test_the_page_is_gone_when_the_block_ends(linear):
    with pytest.raises(KeyboardInterrupt), netron_on(linear.folder / "model.onnx") as found:
        raise KeyboardInterrupt
    with pytest.raises(ConnectionRefusedError):
        answer(found, "/")


def test_a_port_that_is_taken_is_one_line(linear):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = rf"^Netron cannot serve model.onnx on 127.0.0.1:{port}: Address already in use$"
        with pytest.raises(ExportError, match=text), netron_on(linear.folder / "model.onnx", port):
            pass


def test_missing_netron_is_one_line_with_the_cure(linear, monkeypatch):
    monkeypatch.setattr("exporter.look.netron_page.find_spec", lambda name: None)
    with (
        pytest.raises(BackendUnavailable, match="pip install 'twinport"),
        netron_on(linear.folder / "model.onnx"),
    ):
        pass


def test_a_page_of_another_form_is_refused():
    with pytest.raises(ValueError, match="a page of another form; pip install"):
        page_about('<meta name="version" content="1.0.0">', "net.onnx")


def test_inspect_opens_the_page_and_serves_it_until_interrupted(linear, tmp_path):
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    os.mkfifo(opened)  # reading it waits for the browser
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", TWINPORT, "inspect", str(linear.folder), "--browse"],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "BROWSER": f"{browser} %s", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("Netron shows"))
        address = line.split(" at ")[1].split()[0]
        assert opened.read_text() == f"{address}\n"
        assert answer(address, "/")[0] == 200
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout.read() == "stopped\n"
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with pytest.raises(ConnectionRefusedError):
        answer(address, "/")
