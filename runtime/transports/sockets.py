"""Addresses asked of the system itself, before a library takes them."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

from runtime.errors import InvalidInput
from runtime.transports.base import address_text


def resolved(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """The family and the address of a name, the first that the system gives.

    Raises:
        InvalidInput: The name stands for no address.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _refused(host, port, error) from error
    family, _, _, _, address = found[0]
    return family, address


def check_free(host: str, port: int) -> None:
    """See whether an address can be listened on; libraries log and give no reason.

    Raises:
        InvalidInput: It cannot; the text names the system's reason.
    """
    family, address = resolved(host, port)
    try:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            # Linux lets two sockets bind with SO_REUSEADDR until one listens.
            probe.listen(1)
    except OSError as error:
        raise _refused(host, port, error) from error


def reserved(host: str, port: int) -> socket.socket:
    """A socket that holds an address for several processes and listens to nothing itself.

    Raises:
        InvalidInput: The address cannot be had; the text names the system's reason.
    """
    check_free(host, port)
    family, address = resolved(host, port)
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError as error:
        held.close()
        raise _refused(host, port, error) from error
    return held


def _refused(host: str, port: int, error: OSError) -> InvalidInput:
    return InvalidInput(
        f"{address_text(host, port)} cannot be listened on: {error.strerror or error}; "
        "choose another --port, or 0 for a free one"
    )
