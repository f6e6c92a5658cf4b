"""Texts of options are read one way or refused as wrong usage."""

from __future__ import annotations

import click
import pytest

from exporter.commands.options import RangeType, ValuesType, specs_from_options
from runtime.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("batch=1:64", ("batch", (1, 64))),
        (" batch = 1:64 ", ("batch", (1, 64))),
        ("batch=8", ("batch", (8, 8))),
        ("x=-2:0", ("x", (-2, 0))),
        ("a.b=0:1", ("a.b", (0, 1))),
    ],
)
def test_a_name_and_its_ends_are_read(text, read):
    assert RangeType().convert(text, None, None) == read


@pytest.mark.parametrize("text", ["batch", "batch=", "=1:2", "batch=1-2", "batch=1:", "b=1.5:2"])
def test_other_forms_are_wrong_usage(text):
    with pytest.raises(click.BadParameter, match="wanted the form 'batch=1:64'"):
        RangeType().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("x=-0.5:0.5", ("x", (-0.5, 0.5))),
        ("x=1e-3:.5", ("x", (0.001, 0.5))),
        ("tokens=0:9007199254740993", ("tokens", (0, 9007199254740993))),
        ("x=5", ("x", (5, 5))),
    ],
)
def test_values_may_be_decimals_and_whole_numbers_stay_exact(text, read):
    assert ValuesType().convert(text, None, None) == read


@pytest.mark.parametrize("text", ["x", "x=", "=1:2", "x=1-2", "x=1:", "x=a:b", "x=nan:1", "x=.:1"])
def test_other_forms_of_values_are_wrong_usage(text):
    with pytest.raises(click.BadParameter, match=r"wanted the form 'x=-0\.5:0\.5'"):
        ValuesType().convert(text, None, None)


def test_inputs_are_read_in_their_order():
    specs = specs_from_options(("x:float32[batch,3]", "k:int64[]"))
    assert [f"{spec.name} {spec}" for spec in specs] == ["x float32 [batch, 3]", "k int64 []"]
    with pytest.raises(InvalidInput, match="wanted the form 'x:float32"):
        specs_from_options(("x float32",))
