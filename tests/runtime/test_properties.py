from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import pytest

from runtime.errors import ManifestError
from runtime.manifest import FILE_NAME, Preprocessing, read_manifest
from runtime.properties import (
    LABELS,
    PREPROCESSING,
    PROOF,
    PROVED_HERE,
    ModelProperties,
    properties_from_manifest,
    properties_from_map,
)

PREPARED = Preprocessing("image", "gray", 32, 32, (0.1307,), (0.3081,))


def test_what_the_server_writes_the_client_reads_back(write_toy):
    manifest = replace(
        read_manifest(write_toy() / FILE_NAME), preprocessing=PREPARED, labels=("one", "zwölf")
    )
    sent = properties_from_manifest(manifest, proved_here="passed")
    assert all(isinstance(value, str) for value in sent.values())
    assert properties_from_map(sent) == ModelProperties(
        PREPARED, ("one", "zwölf"), "pending", "passed"
    )


def test_what_a_manifest_lacks_is_not_sent(write_toy):
    manifest = read_manifest(write_toy() / FILE_NAME)
    assert properties_from_manifest(manifest, proved_here="failed") == {
        PROOF: "pending",
        PROVED_HERE: "failed",
    }


def test_another_servers_properties_are_left_alone():
    assert properties_from_map({"theirs": "{"}) == ModelProperties()


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        (PREPROCESSING, "{", "is not JSON"),
        (PREPROCESSING, "[]", "holds a list; wanted an object"),
        (PREPROCESSING, '{"input": "x"}', "has no field 'color'"),
        (LABELS, '"a"', "holds a str; wanted a list of names"),
    ],
)
def test_a_property_that_cannot_be_read_is_named(key, text, message):
    with pytest.raises(ManifestError, match=f"the server's {key} {message}"):
        properties_from_map({key: text})


def test_a_client_of_the_release_before_reads_what_it_knows(write_toy):
    """It refuses a field that it lacks, so one that says nothing new is not sent."""
    manifest = dataclasses.replace(read_manifest(write_toy() / FILE_NAME), preprocessing=PREPARED)
    fields = json.loads(properties_from_manifest(manifest, proved_here="passed")[PREPROCESSING])
    assert set(fields) == {"input", "color", "height", "width", "mean", "std", "resample"}


@pytest.mark.parametrize("more", [{"done_by": "artifact"}, {"short_side": 40}])
def test_who_prepares_and_how_a_picture_is_cut_comes_through(write_toy, more):
    preprocessing = dataclasses.replace(PREPARED, **more)
    manifest = dataclasses.replace(
        read_manifest(write_toy() / FILE_NAME), preprocessing=preprocessing
    )
    sent = properties_from_manifest(manifest, proved_here="passed")
    assert properties_from_map(sent).preprocessing == preprocessing
