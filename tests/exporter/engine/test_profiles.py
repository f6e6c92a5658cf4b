"""Sizes that an engine takes: what the library would swallow is refused before it is asked."""

from __future__ import annotations

import pytest

from exporter.engine.profiles import (
    Sizes,
    checked_profiles,
    covered_ranges,
    default_profile,
    profile_from_text,
    profile_shapes,
    text_of,
)
from runtime.errors import InvalidInput, UsageProblem
from runtime.tensors import spec_from_text

IMAGE = (spec_from_text("image:float32[batch,1,32,32]"),)
TOKENS = (spec_from_text("tokens:int64[batch,seq]"), spec_from_text("mask:bool[batch,8]"))
BATCH = {"batch": (1, 64)}
BOTH = {"batch": (1, 64), "seq": (1, 128)}


@pytest.mark.parametrize(
    "text",
    [
        "batch=1,8,64;seq=16,32,128",
        " batch = 1, 8,64 ; seq=16,32,128",
        "batch=1,8,64 seq=16,32,128",
    ],
)
def test_several_axes_are_read_from_one_text(text):
    assert profile_from_text(text) == {"batch": Sizes(1, 8, 64), "seq": Sizes(16, 32, 128)}
    assert text_of(profile_from_text(text)) == "batch=1,8,64;seq=16,32,128"


@pytest.mark.parametrize(
    "text",
    [
        "", "batch", "batch=1", "batch=1,2", "batch=1,2,3,4", "=1,2,3", "batch=1,x,3",
        "batch=-1,2,3", "batch=1,2,3;batch=1,2,3",
    ],
)  # fmt: skip
def test_another_form_is_wrong_usage(text):
    with pytest.raises(UsageProblem, match="profile '"):
        profile_from_text(text)


@pytest.mark.parametrize("text", ["batch=0,1,2", "batch=8,4,64", "batch=1,65,64"])
def test_sizes_out_of_order_are_refused(text):
    with pytest.raises(InvalidInput, match=r"axis 'batch': sizes .* are in no order"):
        profile_from_text(text)


def test_the_default_takes_all_declared_sizes_and_tunes_for_the_middle():
    assert default_profile(BATCH) == {"batch": Sizes(1, 8, 64)}
    assert default_profile({"n": (5, 5)}) == {"n": Sizes(5, 5, 5)}
    assert checked_profiles((), IMAGE, BATCH) == (default_profile(BATCH),)
    assert checked_profiles((), IMAGE, {}) == ()


@pytest.mark.parametrize(
    ("texts", "inputs", "ranges", "said"),
    [
        (["seq=1,2,3"], IMAGE, BATCH, "'seq', which is no free axis of image float32"),
        (["batch=1,8,65"], IMAGE, BATCH, "batch 1 to 65; the model was exported and proved"),
        (["batch=1,8,64"], TOKENS, BOTH, "says nothing of the free axis 'seq'"),
        (["batch=1,2,3"], IMAGE, {}, "leave --profile out"),
        (["batch=1,2,4", "batch=6,8,64"], IMAGE, BATCH, "no profile takes batch 5; let them meet"),
        (["batch=1,2,4;seq=1,2,8", "batch=1,2,8;seq=8,9,16"], TOKENS, BOTH,
         "no profile takes batch 5 to 8, seq 1 to 7"),
    ],
)  # fmt: skip
def test_profiles_that_do_not_fit_the_model_are_refused(texts, inputs, ranges, said):
    with pytest.raises(InvalidInput, match=said):
        checked_profiles([profile_from_text(text) for text in texts], inputs, ranges)


def test_profiles_that_meet_cover_everything_between_them():
    texts = "batch=1,2,8;seq=1,64,128", "batch=4,16,32;seq=1,64,128"
    profiles = checked_profiles([profile_from_text(text) for text in texts], TOKENS, BOTH)
    assert covered_ranges(profiles) == {"batch": (1, 32), "seq": (1, 128)}


def test_a_profile_becomes_shapes_of_the_inputs_with_free_axes():
    inputs = (*TOKENS, spec_from_text("scale:float32[3]"))
    tokens, mask = profile_shapes(profile_from_text("batch=1,2,4;seq=5,6,7"), inputs)
    assert (tokens.smallest, tokens.optimal, tokens.largest) == ((1, 5), (2, 6), (4, 7))
    assert (mask.input, mask.largest) == ("mask", (4, 8))
