"""Inputs and outputs in shared memory, and what a client may not reach with it."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import numpy as np
import pytest

from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import Status
from runtime.service.regions import MAX_REGIONS, Place

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
SIZE = X.nbytes
FOLDER = Path("/dev/shm")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="this system has no /dev/shm")


@pytest.fixture
def shared():
    """An object of 256 bytes, the input at 64."""
    path = FOLDER / f"twinport-test-{secrets.token_hex(8)}"
    path.write_bytes(bytes(64) + X.tobytes() + bytes(256 - 64 - SIZE))
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
async def registered(servicer, shared, ask):
    """A region ``r`` that begins at 32."""
    await ask(
        servicer, "SystemSharedMemoryRegister",
        name="r", key=f"/{shared.name}", offset=32, byte_size=224,
    )  # fmt: skip
    return servicer


def place(tensor, region="r", size=SIZE, offset=32):
    tensor.parameters["shared_memory_region"].string_param = region
    tensor.parameters["shared_memory_byte_size"].int64_param = size
    if offset:
        tensor.parameters["shared_memory_offset"].int64_param = offset


def request_in_memory(**where):
    request = request_from_arrays({"x": X}, model="linear")
    del request.raw_input_contents[:]
    place(request.inputs[0], **where)
    return request


def right(toys):
    return toys["linear"].compute({"x": X})["y"]


async def test_an_input_is_read_from_its_region(registered, ask, toys):
    response = await ask(registered, "ModelInfer", request_in_memory())
    np.testing.assert_allclose(arrays_from_response(response)["y"], right(toys), rtol=1e-5)


async def test_outputs_are_written_to_their_region_and_others_are_sent(
    registered, shared, ask, toys
):
    request = request_from_arrays({"x": X}, model="linear", outputs=["total", "y"])
    place(request.outputs[1], size=100, offset=96)
    response = await ask(registered, "ModelInfer", request)
    total, y = response.outputs
    assert (total.name, y.name) == ("total", "y")
    assert [len(data) for data in response.raw_output_contents] == [8, 0]
    assert y.parameters["shared_memory_region"].string_param == "r"
    assert y.parameters["shared_memory_byte_size"].int64_param == 24
    assert y.parameters["shared_memory_offset"].int64_param == 96
    assert (y.datatype, list(y.shape)) == ("FP32", [2, 3])
    written = np.frombuffer(shared.read_bytes()[32 + 96 :][:24], np.float32).reshape(2, 3)
    np.testing.assert_allclose(written, right(toys), rtol=1e-5)
    assert shared.stat().st_size == 256


async def test_regions_are_listed_and_forgotten(registered, shared, ask, status_of):
    await ask(registered, "SystemSharedMemoryRegister", name="s", key=shared.name, byte_size=1)
    regions = (await ask(registered, "SystemSharedMemoryStatus")).regions
    assert sorted(regions) == ["r", "s"]
    one = (await ask(registered, "SystemSharedMemoryStatus", name="r")).regions["r"]
    assert (one.key, one.offset, one.byte_size) == (f"/{shared.name}", 32, 224)
    for _ in range(2):
        await ask(registered, "SystemSharedMemoryUnregister", name="r")
    assert sorted((await ask(registered, "SystemSharedMemoryStatus")).regions) == ["s"]
    status, _ = await status_of(ask(registered, "SystemSharedMemoryStatus", name="r"))
    assert status is Status.NOT_FOUND
    status, text = await status_of(ask(registered, "ModelInfer", request_in_memory()))
    assert status is Status.NOT_FOUND
    assert "region 'r', which is not registered" in text
    await ask(registered, "SystemSharedMemoryUnregister")
    assert not (await ask(registered, "SystemSharedMemoryStatus")).regions


async def test_a_name_is_given_once(registered, shared, ask, status_of):
    status, _ = await status_of(
        ask(registered, "SystemSharedMemoryRegister", name="r", key=shared.name, byte_size=1)
    )
    assert status is Status.ALREADY_EXISTS


@pytest.mark.parametrize(
    "key", ["", "/", ".", "/..", "../etc/passwd", "/../../etc/passwd", "/a/b", "a\0b", "//etc"]
)
async def test_a_key_leads_nowhere_but_to_an_object(servicer, key, ask, status_of):
    status, text = await status_of(
        ask(servicer, "SystemSharedMemoryRegister", name="r", key=key, byte_size=1)
    )
    assert status is Status.INVALID_ARGUMENT
    assert "wanted the form '/name'" in text


async def test_a_link_out_of_the_folder_is_not_followed(servicer, shared, tmp_path, ask, status_of):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    shared.unlink()
    shared.symlink_to(secret)
    status, text = await status_of(
        ask(servicer, "SystemSharedMemoryRegister", name="r", key=shared.name, byte_size=1)
    )
    assert status is Status.INVALID_ARGUMENT
    assert "cannot be opened" in text


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
async def test_what_is_no_object_is_refused(servicer, shared, make, ask, status_of):
    shared.unlink()
    make(shared)
    try:
        status, _ = await status_of(
            ask(servicer, "SystemSharedMemoryRegister", name="r", key=shared.name, byte_size=1)
        )
        assert status is Status.INVALID_ARGUMENT
    finally:
        if shared.is_dir():
            shared.rmdir()


@pytest.mark.parametrize(
    ("offset", "byte_size"), [(0, 0), (0, 257), (256, 1), (1, 256), (2**64 - 1, 1), (1, 2**64 - 1)]
)
async def test_a_region_lies_in_its_object(servicer, shared, offset, byte_size, ask, status_of):
    status, text = await status_of(
        ask(
            servicer, "SystemSharedMemoryRegister",
            name="r", key=shared.name, offset=offset, byte_size=byte_size,
        )
    )  # fmt: skip
    assert status is Status.INVALID_ARGUMENT
    assert "within the 256" in text


@pytest.mark.parametrize(
    ("where", "text"),
    [
        ({"offset": 224}, "ends at 224"),
        ({"size": 225, "offset": 0}, "ends at 224"),
        ({"size": -1}, "no whole number"),
        ({"offset": -8}, "no whole number"),
        ({"size": SIZE - 4}, "has 28 bytes; FP32 [2, 4] takes 32"),
        ({"size": 0}, "has 0 bytes"),
    ],
)
async def test_an_input_lies_in_its_region(registered, where, text, ask, status_of):
    status, said = await status_of(ask(registered, "ModelInfer", request_in_memory(**where)))
    assert status is Status.INVALID_ARGUMENT
    assert text in said


async def test_an_input_of_another_size_is_not_read(registered, monkeypatch, ask, status_of):
    monkeypatch.setattr(Place, "_read", lambda *_: pytest.fail("it was read"))
    status, text = await status_of(ask(registered, "ModelInfer", request_in_memory(size=SIZE + 4)))
    assert status is Status.INVALID_ARGUMENT
    assert "has 36 bytes; FP32 [2, 4] takes 32" in text


async def test_an_output_that_is_too_large_is_not_written(registered, shared, ask, status_of):
    before = shared.read_bytes()
    request = request_from_arrays({"x": X}, model="linear", outputs=["total", "y"])
    place(request.outputs[0], size=8, offset=0)
    place(request.outputs[1], size=20, offset=96)
    status, text = await status_of(ask(registered, "ModelInfer", request))
    assert status is Status.INVALID_ARGUMENT
    assert "takes 24 bytes; its place" in text
    assert shared.read_bytes() == before


async def test_an_object_that_was_made_shorter_is_an_error_and_not_the_end(
    registered, shared, ask, status_of
):
    os.truncate(shared, 40)
    request = request_from_arrays({"x": X}, model="linear", outputs=["y"])
    place(request.outputs[0], size=100, offset=96)
    for wrong in (request_in_memory(), request):
        status, text = await status_of(ask(registered, "ModelInfer", wrong))
        assert status is Status.INVALID_ARGUMENT
        assert "made shorter" in text
    assert shared.stat().st_size == 40


@pytest.fixture
async def texts(write_toy, open_service, shared, ask):
    """A servicer of texts with the whole of an object as region ``r``; fills the object."""
    write_toy("strings")
    servicer = await open_service(unproved=True)

    async def texts(data, shape):
        shared.write_bytes(data)
        await ask(servicer, "SystemSharedMemoryUnregister", name="r")
        await ask(
            servicer, "SystemSharedMemoryRegister", name="r", key=shared.name, byte_size=len(data)
        )
        request = request_from_arrays({"text": np.zeros(1, "S1")}, model="strings")
        request.inputs[0].shape[:] = shape
        del request.raw_input_contents[:]
        place(request.inputs[0], size=len(data), offset=0)
        return await ask(servicer, "ModelInfer", request)

    return texts


def element(text):
    return len(text).to_bytes(4, "little") + text


async def test_text_is_read_from_its_region(texts):
    # One is longer than what is read at a time to find lengths in.
    words = [b"one", b"", b"x" * 200_000, b"last"]
    answer = await texts(b"".join(map(element, words)), (4,))
    assert arrays_from_response(answer)["same"].tolist() == words


@pytest.mark.parametrize(
    ("data", "shape", "text"),
    [
        (element(b"ab") + bytes(2), (2,), "ends inside the length of element 1"),
        (element(b"ab") + b"\xff\xff\xff\x7f1", (2,), "element 1, which should have 2147483647"),
        (element(b"ab") * 2, (3,), "holds 2 elements; BYTES [3] takes 3"),
        (element(b"ab") * 3, (2,), "has 6 bytes after its 2 elements"),
        (element(b"ab"), (1, 1), "has shape [1, 1]; the model wants string [n]"),
        (element(b"ab"), (2**40,), "at most 4194304 are read from shared memory"),
        (element(bytes(2**24)) + element(b"")[:3], (2,), "ends inside the length of element 1"),
    ],
)
async def test_text_that_does_not_fill_its_place_is_not_read(
    data, shape, text, texts, monkeypatch, status_of
):
    read, counts = Place._read, []

    def noted(place, start, count):
        counts.append(count)
        return read(place, start, count)

    monkeypatch.setattr(Place, "_read", noted)
    status, said = await status_of(texts(data, shape))
    assert status is Status.INVALID_ARGUMENT
    assert text in said
    assert sum(counts) <= 2**17, "more than lengths were read"


async def test_data_comes_one_way_alone(registered, ask, status_of):
    request = request_in_memory()
    request.raw_input_contents.append(X.tobytes())
    status, _ = await status_of(ask(registered, "ModelInfer", request))
    assert status is Status.INVALID_ARGUMENT
    request = request_in_memory()
    request.inputs[0].contents.fp32_contents.extend([1.0] * 8)
    status, _ = await status_of(ask(registered, "ModelInfer", request))
    assert status is Status.INVALID_ARGUMENT
    request = request_from_arrays({"x": X}, model="linear", outputs=["y"])
    place(request.outputs[0])
    request.outputs[0].parameters["classification"].int64_param = 1
    status, _ = await status_of(ask(registered, "ModelInfer", request))
    assert status is Status.INVALID_ARGUMENT


async def test_regions_end_somewhere(servicer, shared, monkeypatch, ask, status_of):
    monkeypatch.setattr("runtime.service.regions.MAX_REGIONS", 2)
    assert MAX_REGIONS > 100
    for name in ("1", "2"):
        await ask(servicer, "SystemSharedMemoryRegister", name=name, key=shared.name, byte_size=1)
    status, _ = await status_of(
        ask(servicer, "SystemSharedMemoryRegister", name="3", key=shared.name, byte_size=1)
    )
    assert status is Status.RESOURCE_EXHAUSTED


async def test_a_region_that_is_forgotten_is_closed(registered, shared, ask):
    def opened():
        targets = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
        return [path for path in targets if os.path.islink(path)
                and os.readlink(path) == str(shared)]  # fmt: skip

    assert len(opened()) == 1
    await ask(registered, "SystemSharedMemoryUnregister", name="r")
    assert opened() == []
