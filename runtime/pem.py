"""Files with certificates and keys (PEM), checked before a library takes them; needs only ssl."""

from __future__ import annotations

import base64
import re
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from runtime.errors import InvalidInput

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s(.*?)-----END \1-----", re.DOTALL)
_CERTIFICATES = (b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE")
_KEY = b"PRIVATE KEY"
_CURVED = bytes.fromhex("2a8648ce3d0201")
_CURVES = tuple(map(bytes.fromhex, ("2a8648ce3d030107", "2b81040022", "2b81040023")))
"""Identifiers of keys on a curve, and of P-256, P-384 and P-521."""
_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL says of a key that is not that of the certificate; the last, of another kind."""
_UTC_TIME, _VERSION = 0x17, 0xA0
"""Tags of DER: a time with two digits for the year; the version, which may be left out."""


def read_pair(cert: Path, key: Path) -> tuple[bytes, bytes]:
    """A certificate, with those that lead to the root, and its private key.

    Raises:
        InvalidInput: A file cannot be read or holds something else, the certificate is not
            valid now, or the key is that of another one.
    """
    shown, secret = _read(cert), _read(key)
    first, *_ = _certificates(cert, shown)
    kinds = [kind for kind, _ in _blocks(secret) if kind.endswith(_KEY)]
    if not kinds:
        raise InvalidInput(f"{key} holds no private key in PEM form")
    if kinds[0].startswith(b"ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in secret:
        raise InvalidInput(
            f"the key in {key} is locked with a password; unlock it (openssl pkey -in {key})"
        )
    if (wrong := _outside(first)) is not None:
        raise InvalidInput(f"the certificate in {cert} {wrong}")
    if _strange_curve(first):
        raise InvalidInput(f"the key of {cert} is on a curve that is not known; wanted P-256")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(cert, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(_said_of_pair(cert, key, error)) from error
    return shown, secret


def read_authorities(path: Path) -> bytes:
    """The certificates of those whose signature is trusted.

    Raises:
        InvalidInput: The file cannot be read, or holds no certificate that is valid now.
    """
    data = _read(path)
    wrong = [_outside(certificate) for certificate in _certificates(path, data)]
    # Collections of them hold some that are over, which do no harm.
    if wrong[0] is not None and all(wrong):
        raise InvalidInput(f"the certificate in {path} {wrong[0]}")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error


def _blocks(data: bytes) -> list[tuple[bytes, bytes]]:
    """What each block of a file says it is, and its text."""
    return [(match[1], match[2]) for match in _BLOCK.finditer(data)]


def _certificates(path: Path, data: bytes) -> list[bytes]:
    """All certificates of a file in DER form, at least one, each of which OpenSSL takes."""
    found = [text for kind, text in _blocks(data) if kind in _CERTIFICATES]
    if not found:
        raise InvalidInput(f"{path} holds no certificate in PEM form")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        ders = [base64.b64decode(b"".join(text.split()), validate=True) for text in found]
        for der in ders:
            context.load_verify_locations(cadata=der)
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"{path} holds a damaged certificate") from error
    return ders


def _outside(der: bytes) -> str | None:
    """What is to be said of a certificate that is not valid now; none of one that is."""
    begins, ends = (_time(tag, value.decode()) for tag, value in _elements(_fields(der)[3]))
    now = datetime.now(UTC)
    if now > ends:
        return f"expired on {ends:%Y-%m-%d %H:%M} UTC"
    if now < begins:
        return f"is not valid before {begins:%Y-%m-%d %H:%M} UTC; is the clock right?"
    return None


def _strange_curve(der: bytes) -> bool:
    """Whether the key is on a curve that neither transport knows."""
    _, algorithm = next(_elements(_fields(der)[5]))
    kind, *parameters = (value for _, value in _elements(algorithm))
    return kind == _CURVED and parameters[0] not in _CURVES


def _fields(der: bytes) -> list[bytes]:
    """Of what is signed of a certificate, from the serial number on (RFC 5280, section 4.1)."""
    _, certificate = next(_elements(der))
    _, to_be_signed = next(_elements(certificate))
    return [value for tag, value in _elements(to_be_signed) if tag != _VERSION]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and value of each element of DER in a row."""
    at = 0
    while at < len(data):
        tag, size, at = data[at], data[at + 1], at + 2
        if size & 0x80:
            digits = size & 0x7F
            size, at = int.from_bytes(data[at : at + digits]), at + digits
        yield tag, data[at : at + size]
        at += size


def _time(tag: int, text: str) -> datetime:
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _said_of_pair(cert: Path, key: Path, error: Exception) -> str:
    reason = str(getattr(error, "reason", None) or error)
    if reason in _OTHER_KEY:
        return f"the key in {key} is not that of the certificate in {cert}"
    words = reason.replace("_", " ").lower()
    return f"{cert} and {key} cannot be used as certificate and key: {words}"
