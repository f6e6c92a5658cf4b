"""What this process knows of its own sockets."""

from __future__ import annotations

import os
import socket
from contextlib import closing

import pytest

from runtime.transports.unsent import (
    connections_of,
    listening_ports,
    unsent_bytes,
    unsent_bytes_of,
)


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


def test_the_connections_of_a_port_are_those_of_its_clients(pair):
    client, server, port = pair
    (found,) = connections_of(port)
    with found:
        assert found.getpeername() == client.getsockname()
        server.close()
        found.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    client.close()
    assert connections_of(port) == []


def test_a_connection_whose_client_has_gone_has_nothing_to_send(pair):
    client, server, _ = pair
    server.send(b"x" * 2**20)
    client.close()
    while unsent_bytes_of(server):
        pass


def test_looking_leaves_no_file_open(pair):
    *_, port = pair
    before = os.listdir("/dev/fd")
    for _ in range(5):
        unsent_bytes(port)
        listening_ports()
        for connection in connections_of(port):
            connection.close()
    assert len(os.listdir("/dev/fd")) == len(before)
