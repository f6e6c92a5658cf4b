"""What this process knows of its own sockets."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import pytest

from runtime.transports.unsent import listening_ports, unsent_bytes


@pytest.fixture
def pair():
    """A connection to a port of this process, and the port: client, server, port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            server, _ = listener.accept()
            with server:
                yield client, server, port


def test_a_port_is_known_while_it_is_listened_on():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        assert port in listening_ports()
    assert port not in listening_ports()


def test_bytes_count_until_the_client_has_taken_them(pair):
    client, server, port = pair
    server.setblocking(False)
    sent = 0
    try:
        while True:
            sent += server.send(bytes(2**20))
    except BlockingIOError:
        pass
    assert 0 < unsent_bytes(port) <= sent
    while sent:
        sent -= len(client.recv(2**20))
    while unsent_bytes(port):
        pass


def test_looking_leaves_no_file_open(pair):
    *_, port = pair
    before = os.listdir("/dev/fd")
    for _ in range(5):
        unsent_bytes(port)
        listening_ports()
    assert len(os.listdir("/dev/fd")) == len(before)
