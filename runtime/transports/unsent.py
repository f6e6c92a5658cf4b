"""The sockets of this process: where it listens, what has not left yet, its connections."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

_SIOCOUTQ = 0x5411
_FOLDER = "/dev/fd"


def listening_ports() -> set[int]:
    """The TCP ports that this process listens on."""
    return {
        found.getsockname()[1]
        for found in _sockets()
        if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    }


def unsent_bytes(port: int) -> int:
    """Bytes that clients of a port have not acknowledged yet."""
    total = 0
    for found in _sockets():
        if found.getsockname()[1] == port:
            total += unsent_bytes_of(found)
    return total


def unsent_bytes_of(connection: socket.socket) -> int:
    """Bytes that the client of a connection has not acknowledged; none once it has gone."""
    import fcntl

    try:
        connection.getpeername()
        return int(struct.unpack("i", fcntl.ioctl(connection, _SIOCOUTQ, b"\0" * 4))[0])
    except OSError:
        return 0


def connections_of(port: int) -> list[socket.socket]:
    """The connections of a port, each as a copy that holds it open until it is closed."""
    found = []
    for connection in _sockets():
        if connection.getsockname()[1] == port:
            with suppress(OSError):
                connection.getpeername()
                found.append(connection.dup())
    return found


def _sockets() -> Iterator[socket.socket]:
    """Every TCP socket of the process, as a copy that is closed afterwards."""
    for name in os.listdir(_FOLDER):
        try:
            # A copy: the number may stand for another file by the time it is looked at.
            copy = os.dup(int(name))
        except OSError:
            continue
        try:
            found = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            continue
        with found:
            inet = found.family in (socket.AF_INET, socket.AF_INET6)
            if inet and found.type == socket.SOCK_STREAM:
                yield found
