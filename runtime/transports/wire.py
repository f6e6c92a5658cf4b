"""gRPC over HTTP/2 as bytes: messages, timeouts, metadata, status texts.

The protocol is that of gRPC's ``doc/PROTOCOL-HTTP2.md`` and ``doc/compression.md``.
"""

from __future__ import annotations

import binascii
import zlib
from collections.abc import Iterable, Iterator
from urllib.parse import quote

from runtime.errors import InvalidInput, ResourceExhausted, Unimplemented

PREFIX = 5
"""Bytes before each message: whether it is compressed, and its length."""
ENCODINGS = b"identity, deflate, gzip"
_WINDOW = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
"""How zlib is told the container of an encoding."""
_GZIP_LEVEL = 1
"""Tensors hardly shrink further at higher levels, which take several times as long."""

_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
"""What a status text carries as it is."""
_NOT_METADATA = frozenset(
    (
        b"host", b"te", b"content-type", b"content-length", b"user-agent", b"accept-encoding",
        b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding",
    )
)  # fmt: skip

Headers = Iterable[tuple[bytes, bytes]]


class UnknownEncoding(Unimplemented):
    """A compression that is not spoken here."""


def framed(payload: bytes) -> bytes:
    """A message as it travels, not compressed."""
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def framed_gzip(payload: bytes) -> bytes:
    """A message as it travels, compressed by gzip."""
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _WINDOW[b"gzip"])
    packed = packer.compress(payload) + packer.flush()
    return b"\1" + len(packed).to_bytes(4, "big") + packed


def check_encoding(encoding: bytes) -> None:
    """Refuse a compression that is not spoken here.

    Raises:
        UnknownEncoding: The text names those that are.
    """
    if encoding not in _WINDOW and encoding != b"identity":
        raise UnknownEncoding(
            f"grpc-encoding '{encoding[:40].decode('latin-1')}' is not taken; "
            f"wanted one of {ENCODINGS.decode()}"
        )


def check_length(length: int, limit: int, what: str = "a message") -> None:
    """Refuse a message that is too long, before it has come or left.

    Raises:
        ResourceExhausted: It has more bytes than are taken.
    """
    if length > limit:
        raise ResourceExhausted(
            f"{what} of at least {length} bytes is too long; --max-message-mb allows {limit} here"
        )


def unpacked(packed: bytes, encoding: bytes, limit: int) -> bytes:
    """A compressed message as it was; never more than the limit in memory.

    Raises:
        InvalidInput: It is not compressed by what ``grpc-encoding`` says.
        ResourceExhausted: It is too long.
    """
    window = _WINDOW.get(encoding)
    if window is None:
        raise InvalidInput("a message is marked as compressed, and grpc-encoding does not say how")
    unpacker = zlib.decompressobj(window)
    try:
        payload = unpacker.decompress(packed, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"a message is no {encoding.decode()}: {error}") from error
    check_length(len(payload), limit)
    if not unpacker.eof:
        raise InvalidInput(f"a message in {encoding.decode()} ends before its end")
    return payload


def seconds_of(timeout: bytes) -> float:
    """What ``grpc-timeout`` says: up to eight digits and a unit.

    Raises:
        InvalidInput: It is written in another way.
    """
    number, unit = timeout[:-1], timeout[-1:]
    if unit not in _SECONDS or not number.isdigit() or len(number) > 8:
        raise InvalidInput(
            f"grpc-timeout is '{timeout[:20].decode('latin-1')}'; wanted up to eight digits and "
            "one of H, M, S, m, u, n"
        )
    return int(number) * _SECONDS[unit]


def status_text(text: str) -> bytes:
    """A text as ``grpc-message`` carries it: UTF-8, percent-encoded."""
    return quote(text, safe=_SAFE).encode("ascii")


def metadata_of(headers: Headers) -> tuple[tuple[str, str | bytes], ...]:
    """What a client sends along: headers that are neither HTTP's nor gRPC's own.

    Raises:
        InvalidInput: A value whose name ends in ``-bin`` is no base64.
    """
    own = [header for header in headers if header[0] not in _NOT_METADATA]
    return tuple(_decoded(own)) if own else ()


def _decoded(headers: Headers) -> Iterator[tuple[str, str | bytes]]:
    for name, value in headers:
        key = name.decode("latin-1")
        if key.startswith("grpc-"):
            continue
        if not key.endswith("-bin"):
            yield key, value.decode("latin-1")
            continue
        for part in value.split(b","):
            yield key, _from_base64(key, part.strip())


def _from_base64(name: str, value: bytes) -> bytes:
    try:
        # Senders may leave the padding out; other alphabets and signs are no gRPC.
        return binascii.a2b_base64(value + b"=" * (-len(value) % 4), strict_mode=True)
    except binascii.Error as error:
        raise InvalidInput(f"metadata '{name[:80]}' is no base64: {error}") from error
