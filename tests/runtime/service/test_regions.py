"""What one process tells another of its shared memory regions is the same object or none."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from runtime.service.regions import Regions

FOLDER = Path("/dev/shm")

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="this system has no /dev/shm")


@pytest.fixture
def objects():
    made = [FOLDER / f"twinport-test-{secrets.token_hex(8)}" for _ in range(2)]
    for number, path in enumerate(made):
        path.write_bytes(bytes([number] * 8))
    yield made
    for path in made:
        path.unlink(missing_ok=True)


@pytest.fixture
def registered(objects):
    regions = Regions()
    regions.register("r", f"/{objects[0].name}", 0, 8)
    return regions


def test_another_process_has_the_object_although_its_name_is_gone(registered, objects):
    objects[0].unlink()
    other = Regions()
    assert other.take_over(registered.told()) == []
    (region,) = other.listed()
    assert region.object.descriptor != registered.get("r").object.descriptor
    assert region.object.identity == registered.get("r").object.identity
    assert other.take_over(registered.told()) == []
    assert other.get("r") is region, "what is known already is not opened again"
    registered.unregister("r")
    assert other.take_over(registered.told()) == []
    assert other.listed() == []


def test_a_descriptor_that_stands_for_another_object_meanwhile_is_refused(registered, objects):
    told = registered.told()
    registered.unregister()
    registered.register("s", f"/{objects[1].name}", 0, 8)
    assert registered.told()[0]["descriptor"] == told[0]["descriptor"]
    other = Regions()
    assert other.take_over(told) == ["r"]
    assert other.listed() == []


def test_a_region_whose_name_was_taken_again_is_the_new_one(registered, objects):
    other = Regions()
    other.take_over(registered.told())
    registered.unregister("r")
    registered.register("r", f"/{objects[1].name}", 0, 8)
    assert other.take_over(registered.told()) == []
    place = other.get("r")
    assert place.object.identity == registered.get("r").object.identity
