"""Certificate and key of a server, read and checked before a library takes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import InvalidInput
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
        InvalidInput: A file cannot be read, or certificate and key do not go together.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    import ssl  # a server without TLS does without it

    read = [_read(path) for path in (settings.tls_cert, settings.tls_key)]
    ca = None if settings.tls_client_ca is None else _read(settings.tls_client_ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(
            f"{settings.tls_cert} and {settings.tls_key} are no certificate and key in PEM form "
            f"that go together, without a password: {error}"
        ) from error
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except ssl.SSLError as error:
            raise InvalidInput(
                f"{settings.tls_client_ca} holds no certificate in PEM form: {error}"
            ) from error
    return Tls(read[0], read[1], ca)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error


def _no_password() -> str:
    # Else OpenSSL asks for it on the terminal.
    raise ValueError("the key is encrypted")
