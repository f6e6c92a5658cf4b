"""Certificate and key of a server, read and checked before a library takes them."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.settings import ServerSettings


@dataclass(frozen=True)
class Tls:
    """What a server shows and asks for, as PEM.

    Attributes:
        cert: Its certificate, with those that lead to the root.
        key: Its private key.
        client_ca: Who must have signed the certificates of clients; none where they need none.
    """

    cert: bytes
    key: bytes
    client_ca: bytes | None


def read_tls(settings: ServerSettings) -> Tls | None:
    """The files that the settings name; none where the server speaks plain text.

    Raises:
        InvalidInput: A file cannot be read or used, or certificate and key do not go together.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    from runtime.pem import read_authorities, read_pair  # a server without TLS does without ssl

    cert, key = read_pair(settings.tls_cert, settings.tls_key)
    ca = settings.tls_client_ca
    return Tls(cert, key, None if ca is None else read_authorities(ca))
