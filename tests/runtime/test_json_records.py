"""A record is made of fields that are known, there and of the right kind, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest

from runtime.errors import ManifestError
from runtime.json_records import record_from_data
from runtime.tensors import TensorSpec


@dataclass(frozen=True)
class Leaf:
    name: str
    size: int = 1


@dataclass(frozen=True)
class Tree:
    kind: Literal["oak", "elm"]
    height: float
    leaves: tuple[Leaf, ...] = ()
    span: tuple[int, int] = (0, 0)
    owner: str | int | None = None
    tags: dict[str, bool] = field(default_factory=dict)


LEAST = {"kind": "oak", "height": 2}


def test_what_is_left_out_has_its_default():
    assert record_from_data(Tree, LEAST, "tree") == Tree("oak", 2.0)


def test_lists_become_tuples_and_objects_become_records():
    data = LEAST | {
        "leaves": [{"name": "a"}, {"name": "b", "size": 3}], "span": [1, 2], "tags": {"old": True},
    }  # fmt: skip
    tree = record_from_data(Tree, data, "tree")
    assert tree == Tree("oak", 2.0, (Leaf("a"), Leaf("b", 3)), (1, 2), None, {"old": True})
    assert isinstance(tree.height, float)


@pytest.mark.parametrize("owner", [None, "me", 7])
def test_each_choice_of_a_union_is_taken(owner):
    assert record_from_data(Tree, LEAST | {"owner": owner}, "tree").owner == owner


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"more": 1}, "^tree has the field 'more', which is not known"),
        ({"kind": "fir"}, "^tree.kind is 'fir'; wanted one of oak, elm"),
        ({"height": True}, "^tree.height is True; wanted a number"),
        ({"height": None}, "^tree.height is None; wanted a number"),
        ({"leaves": {}}, "^tree.leaves is {}; wanted a list"),
        ({"leaves": ["a"]}, r"^tree.leaves\[0\] is 'a'; wanted an object"),
        ({"leaves": [{"name": "a"}, {}]}, r"^tree.leaves\[1\] has no field 'name'"),
        (
            {"leaves": [{"name": "a", "size": True}]},
            r"^tree.leaves\[0\].size is True; wanted a int",
        ),
        ({"span": [1]}, r"^tree.span is \[1\]; wanted 2 items"),
        ({"span": [1, 2.5]}, r"^tree.span\[1\] is 2.5; wanted a int"),
        ({"owner": 1.5}, "^tree.owner is 1.5"),
        ({"tags": []}, r"^tree.tags is \[\]; wanted an object"),
        ({"tags": {"old": 1}}, "^tree.tags.old is 1; wanted a bool"),
    ],
)
def test_what_is_not_understood_is_refused_by_field(fields, said):
    with pytest.raises(ManifestError, match=said) as caught:
        record_from_data(Tree, LEAST | fields, "tree")
    assert "\n" not in str(caught.value)


def test_a_field_without_a_default_must_be_there():
    with pytest.raises(ManifestError, match=r"^tree has no field 'height'"):
        record_from_data(Tree, {"kind": "oak"}, "tree")


def test_what_a_record_itself_refuses_is_told_with_its_place():
    data = {"name": "x", "dtype": "float31", "shape": []}
    with pytest.raises(ManifestError, match=r"^tree.input: .*float31"):
        record_from_data(TensorSpec, data, "tree.input")
