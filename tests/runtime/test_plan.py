from __future__ import annotations

import pytest

from runtime.backends.factory import known_backends, open_backend
from runtime.backends.plan import FLAVOURS, HEADER_BYTES, check_plan, read_header
from runtime.errors import RepositoryError

RTX, FULL = FLAVOURS["tensorrt_rtx"], FLAVOURS["tensorrt"]


def plan(magic=b"vtrt", version=(1, 7, 1, 116), stated=100, size=100):
    head = magic + bytes(12) + stated.to_bytes(8, "little") + bytes(version)
    return head + bytes(max(size - len(head), 0))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.engine"


def test_the_header_tells_flavour_and_version(path):
    path.write_bytes(plan())
    header = read_header(path)
    assert (header.flavour, header.version) == (RTX, (1, 7, 1, 116))
    path.write_bytes(plan(b"ftrt", (11, 4, 0, 106)))
    header = read_header(path)
    assert (header.flavour, header.version) == (FULL, (11, 4, 0, 106))


@pytest.mark.parametrize("content", [b"", b"\x08\x01onnx", b"PK\x03\x04" + bytes(100), bytes(40)])
def test_another_file_is_no_engine(path, content):
    path.write_bytes(content)
    with pytest.raises(RepositoryError) as caught:
        read_header(path)
    assert str(caught.value) == (
        f"{path} is no TensorRT engine: it begins with {content[:4]!r}, "
        "wanted b'ftrt' or b'vtrt'; build it again"
    )


@pytest.mark.parametrize("size", [4, HEADER_BYTES - 1])
def test_a_header_that_is_cut_is_told(path, size):
    path.write_bytes(plan()[:size])
    with pytest.raises(RepositoryError, match=f"has {size} bytes; the engine is cut"):
        read_header(path)


@pytest.mark.parametrize("size", [HEADER_BYTES, 99, 101])
def test_a_length_that_is_not_the_headers_is_told(path, size):
    path.write_bytes(plan(size=size))
    with pytest.raises(RepositoryError, match=f"has {size} bytes, its header says 100"):
        read_header(path)


def test_full_tensorrts_header_is_not_held_to_a_length(path):
    path.write_bytes(plan(b"ftrt", stated=0))
    assert read_header(path).flavour == FULL


def test_a_file_that_cannot_be_read_is_one_line(path):
    for broken in (path, path.parent):
        with pytest.raises(RepositoryError, match="cannot be read"):
            read_header(broken)


@pytest.mark.parametrize(
    ("magic", "wanted", "text"),
    [
        (b"vtrt", FULL, "is an engine of TensorRT-RTX, config.pbtxt wants TensorRT; "
         "write backend: 'tensorrt_rtx'"),
        (b"ftrt", RTX, "is an engine of TensorRT, config.pbtxt wants TensorRT-RTX; "
         "write backend: 'tensorrt'"),
    ],
)  # fmt: skip
def test_an_engine_of_the_other_library_is_refused_before_any_is_loaded(path, magic, wanted, text):
    path.write_bytes(plan(magic))
    with pytest.raises(RepositoryError) as caught:
        check_plan(path, wanted)
    assert text in str(caught.value)
    with pytest.raises(RepositoryError) as caught:
        open_backend(wanted.name, path)
    assert text in str(caught.value)


def test_both_flavours_are_backends():
    assert set(FLAVOURS) < set(known_backends())
    assert [flavour.extra for flavour in FLAVOURS.values()] == ["tensorrt", "tensorrt-rtx"]
