"""What a transport is to the life of a server, and the errors' way to the client."""

from __future__ import annotations

import signal
from typing import Protocol

from runtime.errors import ResourceExhausted, Unimplemented
from runtime.observe.failures import FailureLog
from runtime.service.names import names_from
from runtime.transports.wire import check_length

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


def check_answer(
    failures: FailureLog, method: str, payload: bytes, answer: bytes, limit: int
) -> None:
    """Refuse to send an answer that is too long, and note its call.

    Args:
        failures: Where calls that fail are noted.
        method: Full name of the call, of those with one message each way.
        payload: The request's bytes.
        answer: The answer's.
        limit: Bytes of the longest message.

    Raises:
        ResourceExhausted: It has more bytes than a message may have.
    """
    try:
        check_length(len(answer), limit, "an answer")
    except ResourceExhausted as error:
        failures.note_once(method, error, names=lambda: names_from(method, payload))
        raise


def details_of(error: Exception) -> str:
    """The text of an error on one line, as long as a header takes."""
    return " ".join(str(error).split())[:MAX_DETAILS]


def address_text(host: str, port: int) -> str:
    """``host:port``, with the brackets that an IPv6 address wants."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
