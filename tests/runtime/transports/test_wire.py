"""gRPC's own forms: messages, timeouts, metadata, texts."""

from __future__ import annotations

import base64
import gzip
import zlib
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InvalidInput, ResourceExhausted
from runtime.transports.wire import (
    UnknownEncoding,
    check_encoding,
    framed,
    framed_gzip,
    metadata_of,
    seconds_of,
    status_text,
    unpacked,
)


def test_a_message_carries_its_length_before_it():
    assert framed(b"abc") == b"\0\0\0\0\3abc"


def test_a_compressed_message_says_so_and_is_gzip():
    sent = framed_gzip(b"abc" * 1000)
    assert sent[0] == 1
    assert int.from_bytes(sent[1:5], "big") == len(sent) - 5
    assert gzip.decompress(sent[5:]) == b"abc" * 1000


@pytest.mark.parametrize(
    ("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_what_clients_compress_is_read(encoding, pack):
    check_encoding(encoding)
    assert unpacked(pack(b"x" * 5000), encoding, 5000) == b"x" * 5000


def test_a_small_message_that_grows_huge_is_refused_before_it_is_in_memory():
    bomb = gzip.compress(b"\0" * 50_000_000)
    with pytest.raises(ResourceExhausted, match="1001 bytes"):
        unpacked(bomb, b"gzip", 1000)


@pytest.mark.parametrize(
    ("packed", "encoding", "text"),
    [
        (b"no gzip", b"gzip", "no gzip"),
        (gzip.compress(b"x" * 5000, mtime=0)[:-3], b"gzip", "ends before its end"),
        (b"abc", b"identity", "does not say how"),
    ],
    ids=["other bytes", "cut", "identity"],
)
def test_what_is_not_compressed_as_said_is_the_clients_error(packed, encoding, text):
    with pytest.raises(InvalidInput, match=text):
        unpacked(packed, encoding, 10_000)


def test_a_compression_that_is_not_known_is_named():
    with pytest.raises(UnknownEncoding, match="'snappy' is not taken; wanted one of identity"):
        check_encoding(b"snappy")


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [(b"2H", 7200), (b"3M", 180), (b"4S", 4), (b"5m", 5e-3), (b"6u", 6e-6), (b"7n", 7e-9)],
)
def test_every_unit_of_a_timeout_is_known(timeout, seconds):
    assert seconds_of(timeout) == pytest.approx(seconds)


@pytest.mark.parametrize("timeout", [b"", b"S", b"5", b"5s", b"-1S", b"1.5S", b"123456789S"])
def test_any_other_timeout_is_refused(timeout):
    with pytest.raises(InvalidInput, match="grpc-timeout"):
        seconds_of(timeout)


@given(st.text())
def test_a_status_text_travels_as_printable_ascii_and_comes_back(text):
    sent = status_text(text)
    assert all(0x20 <= byte <= 0x7E for byte in sent)
    assert unquote_to_bytes(sent).decode() == text


def test_metadata_is_what_neither_http_nor_grpc_sent():
    headers = [
        (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"1S"),
        (b"grpc-trace", b"x"), (b"user-agent", b"test"), (b"key", b"one"), (b"key", b"two"),
        (b"raw-bin", b"/wA"), (b"raw-bin", b"YQ==,Yg"),
    ]  # fmt: skip
    assert metadata_of(headers) == (
        ("key", "one"), ("key", "two"),
        ("raw-bin", b"\xff\0"), ("raw-bin", b"a"), ("raw-bin", b"b"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "value", [b"a", b"!!!", b"YQ==!", b"Y!Q=", b"_w", b"YQ==Yg==", b"=", b"YQ,!"]
)
def test_metadata_that_is_no_base64_is_refused(value):
    with pytest.raises(InvalidInput, match="'raw-bin' is no base64"):
        metadata_of([(b"raw-bin", value)])


@pytest.mark.parametrize("size", range(7))
def test_base64_is_read_with_padding_and_without(size):
    data = bytes(range(249, 249 + size))
    padded = base64.b64encode(data)
    for value in (padded, padded.rstrip(b"=")):
        assert metadata_of([(b"raw-bin", value)]) == (("raw-bin", data),)
