"""What a transport is to the life of a server, and the errors' way to the client."""

from __future__ import annotations

import signal
from typing import Protocol

from runtime.errors import Unimplemented

MAX_DETAILS = 1000
"""Characters of an error's text; it travels in a header of limited size."""
ENDING = (signal.SIGTERM, signal.SIGINT)
"""The signals that end a server."""
SEND_SECONDS = 0.5
"""The least time for the last answers to leave once nothing runs any more."""


class Transport(Protocol):
    """Brings requests to a servicer and carries its answers back."""

    async def start(self) -> str:
        """Take requests from now on; the address, with the port that the system chose.

        Raises:
            InvalidInput: The address cannot be had; the text names the system's reason.
        """
        ...

    async def stop(self, seconds: float) -> None:
        """Take no more requests; let the last answers leave, as long as that takes at most."""
        ...


def not_served(method: str) -> Unimplemented:
    """The error of a call of ``/service/Method`` that no service here has."""
    return Unimplemented(f"{method[:200]} is not served here; reflection lists what is")


def details_of(error: Exception) -> str:
    """The text of an error on one line, as long as a header takes."""
    return " ".join(str(error).split())[:MAX_DETAILS]


def address_text(host: str, port: int) -> str:
    """``host:port``, with the brackets that an IPv6 address wants."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
