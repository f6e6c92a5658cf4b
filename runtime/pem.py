"""Files with certificates and keys (PEM), checked before the library of gRPC takes them."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate, load_pem_x509_certificates

from runtime.errors import InvalidInput

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)
_CERTIFICATES = (b"CERTIFICATE", b"X509 CERTIFICATE")
_KEY = b"PRIVATE KEY"
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
"""Of keys that both transports know: P-256, P-384 and P-521."""
_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""What OpenSSL says of a key that is not that of the certificate; the last, of another kind."""


def read_pair(cert: Path, key: Path) -> tuple[bytes, bytes]:
    """A certificate, with those that lead to the root, and its private key.

    Raises:
        InvalidInput: A file cannot be read or holds something else, the certificate is not
            valid now, or the key is that of another one.
    """
    shown, secret = _read(cert), _read(key)
    first, *_ = _certificates(cert, shown)
    kinds = [kind for kind in _kinds(secret) if kind.endswith(_KEY)]
    if not kinds:
        raise InvalidInput(f"{key} holds no private key in PEM form")
    if kinds[0].startswith(b"ENCRYPTED") or b"Proc-Type: 4,ENCRYPTED" in secret:
        raise InvalidInput(
            f"the key in {key} is locked with a password; unlock it (openssl pkey -in {key})"
        )
    if (wrong := _outside(first)) is not None:
        raise InvalidInput(f"the certificate in {cert} {wrong}")
    if _on_strange_curve(first):
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


def _kinds(data: bytes) -> list[bytes]:
    """What each whole block of a file says it is."""
    return [match[1] for match in _BLOCK.finditer(data)]


def _certificates(path: Path, data: bytes) -> list[Certificate]:
    """All certificates of a file, at least one, each of which OpenSSL takes."""
    if not any(kind in _CERTIFICATES for kind in _kinds(data)):
        raise InvalidInput(f"{path} holds no certificate in PEM form")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        found = load_pem_x509_certificates(data)
        for certificate in found:
            context.load_verify_locations(cadata=certificate.public_bytes(Encoding.DER))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidInput(f"{path} holds a damaged certificate") from error
    return found


def _outside(certificate: Certificate) -> str | None:
    """What is to be said of a certificate that is not valid now; none of one that is."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    now = datetime.now(UTC)
    if now > ends:
        return f"expired on {ends:%Y-%m-%d %H:%M} UTC"
    if now < begins:
        return f"is not valid before {begins:%Y-%m-%d %H:%M} UTC; is the clock right?"
    return None


def _on_strange_curve(certificate: Certificate) -> bool:
    """Whether the key is on a curve that neither transport knows."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):  # not even named
        return True
    return isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, _CURVES)


def _said_of_pair(cert: Path, key: Path, error: Exception) -> str:
    reason = str(getattr(error, "reason", None) or error)
    if reason in _OTHER_KEY:
        return f"the key in {key} is not that of the certificate in {cert}"
    words = reason.replace("_", " ").lower()
    return f"{cert} and {key} cannot be used as certificate and key: {words}"
