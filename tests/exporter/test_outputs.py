"""Whatever a module returns gets names that say where it was."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field

import pytest
import torch

from exporter.outputs import named_outputs
from runtime.errors import ExportError

A, B, C = (torch.full((1,), float(i)) for i in range(3))
Point = namedtuple("Point", "left right")


@pytest.mark.parametrize(
    ("returned", "names"),
    [
        (A, ["output"]),
        ((A,), ["output_0"]),
        ([A, B], ["output_0", "output_1"]),
        ((A, None, B), ["output_0", "output_2"]),
        ((A, (B, [C])), ["output_0", "output_1.0", "output_1.1.0"]),
        ({"logits": A, "more": {"share": B}}, ["logits", "more.share"]),
        (OrderedDict(z=A, a=B), ["z", "a"]),
        ({"all": (A, B)}, ["all.0", "all.1"]),
        (Point(A, B), ["left", "right"]),
    ],
)
def test_names_come_from_the_structure(returned, names):
    assert list(named_outputs(returned)) == names


@dataclass
class Inner:
    scores: torch.Tensor


@dataclass
class Outer:
    logits: torch.Tensor
    more: Inner
    none: torch.Tensor | None = None


def test_a_dataclass_that_torch_does_not_know_yet_gives_its_fields():
    assert list(named_outputs((A, Outer(B, Inner(C))))) == [
        "output_0", "output_1.logits", "output_1.more.scores",
    ]  # fmt: skip
    assert list(named_outputs(Outer(B, Inner(C)))) == ["logits", "more.scores"]


@dataclass
class Computed:
    logits: torch.Tensor
    best: torch.Tensor = field(init=False)

    def __post_init__(self):
        self.best = self.logits.argmax()


def test_a_dataclass_with_computed_fields_says_what_to_return():
    with pytest.raises(ExportError, match=r"Computed, .* computes its field 'best' itself"):
        named_outputs(Computed(A))
    with pytest.raises(ExportError, match="returns a type as its output"):
        named_outputs(Outer)


def test_the_tensors_are_those_returned():
    named = named_outputs({"b": B, "a": A})
    assert named["a"] is A
    assert named["b"] is B


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ((A, 3), "returns an int as 'output_1'"),
        ({"loss": "none"}, "returns a str as 'loss'"),
        ({1: A, "1": B}, "two outputs named '1'"),
        (5, "the module returns an int as its output; return tensors only"),
        ("text", "the module returns a str as its output; return tensors only"),
        (None, "returns no tensor"),
        ((), "returns no tensor"),
    ],
)
def test_what_has_no_name_or_is_no_tensor_is_refused(returned, text):
    with pytest.raises(ExportError, match=text):
        named_outputs(returned)
