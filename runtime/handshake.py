"""Why a connection did not come about, from what the gRPC library says of it."""

from __future__ import annotations

import re

_REASONS = (
    (r"WRONG_VERSION_NUMBER|HTTP_REQUEST",
     "the server at {url} does not speak TLS; call it without"),
    (r"CERTIFICATE_VERIFY_FAILED(?:: (?P<why>[^:]+))?",
     "the certificate of the server at {url} is not trusted ({why}); name who signed it with "
     "--tls-ca or Tls(ca=…)"),
    (r"Hostname Verification|is not in peer certificate",
     "the certificate of the server at {url} is that of another host; call it by a name that the "
     "certificate has"),
    (r"ALERT_HANDSHAKE_FAILURE|NO_SHARED_CIPHER|UNSUPPORTED_PROTOCOL",
     "the server at {url} and this client have no kind of TLS, or of keys, in common"),
    (r"ALERT_[A-Z_]*(?:CERTIFICATE|UNKNOWN_CA)|Unwrap failed",
     "the server at {url} refuses this client's certificate, or wants one"),
    (r"Socket closed|Connection reset|Handshake (?:read )?failed|handshake failed",
     "what answers at {url} ends the connection at once; a server with TLS wants clients with "
     "TLS, and may want a certificate that it trusts"),
)  # fmt: skip
"""What is found in the library's text, and what to say; the first that fits."""


def failed_handshake(details: str, url: str) -> str | None:
    """What to say of a connection that was refused after somebody had answered.

    Args:
        details: The library's text.
        url: The address that was called.

    Returns:
        None where nobody answered.
    """
    for pattern, text in _REASONS:
        if (found := re.search(pattern, details)) is not None:
            why = found.groupdict().get("why") or "no reason was given"
            return text.format(url=url, why=why)
    return None
