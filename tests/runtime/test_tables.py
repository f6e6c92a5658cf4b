from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table

from runtime.proof_records import Judgement
from runtime.tables import PLAIN_WIDTH, console, fitted, judgement_table

ORDINARY = Judgement(
    "logits", "random", False, 148, 1480, 2e-7, 1e-7, 2.0, 4.0, 3e-7, 1e-7, 3.0, 8.0, 1e-7,
    "passed",
)  # fmt: skip
EXTREME = Judgement(
    "logits", "large", True, 10, 100, 2e-2, 1e-2, 2.0, None, 3e-2, 1e-2, 3.0, None, 3e-4,
    "failed", "relative RMS 0.0003 > 0.0001", 1e-4,
)  # fmt: skip
INTEGERS = Judgement(
    "chosen", "random", False, 8, 16, 0.25, None, None, 0.0, None, None, None, None, None,
    "failed", "4 of 16 elements differ",
)  # fmt: skip
INFINITE = Judgement(
    "logits", "zeros", True, 1, 10, 1e-7, 0.0, None, None, 1e-7, 0.0, None, None, None,
    "failed", "relative RMS inf > 0.0001",
)  # fmt: skip


def lines(*judgements: Judgement) -> list[str]:
    file = io.StringIO()
    console(file).print(judgement_table(judgements))
    rows = [line.strip() for line in file.getvalue().splitlines()]
    return [row for row in rows if row.startswith(tuple({item.output for item in judgements}))]


def test_the_tolerance_stands_beside_each_judged_number():
    (row,) = lines(ORDINARY)
    assert row.split("  ")[0] == "logits"
    assert "2 (max 4)" in row
    assert "3 (max 8)" in row
    assert row.endswith("passed")


def test_on_extreme_inputs_only_the_relative_error_has_a_tolerance():
    (row,) = lines(EXTREME)
    assert "3.0e-04 (max 1e-04)" in row
    assert row.count("(max") == 1
    assert row.endswith("failed")


def test_integers_show_the_share_that_differs():
    (row,) = lines(INTEGERS)
    assert "25.000% differ (max 0)" in row


def test_a_factor_without_a_unit_is_infinite():
    (row,) = lines(INFINITE)
    assert row.count("infinite") == 2


def test_a_markup_character_in_a_name_is_printed():
    assert "[bold]" in lines(replace(ORDINARY, output="logits[bold]"))[0]


def test_tables_are_not_folded_to_80_columns_in_a_pipe():
    file = io.StringIO()
    console(file).print("x" * (PLAIN_WIDTH - 1))
    assert file.getvalue() == "x" * (PLAIN_WIDTH - 1) + "\n"


@pytest.mark.parametrize("width", [80, 60, 24])
def test_a_table_that_does_not_fit_becomes_paragraphs_and_loses_nothing(width):
    table = Table("model", "p50", "p99", caption="milliseconds")
    names = ("a_model_with_a_name_that_is_long/1", "b/2")
    for name in names:
        table.add_row(name, "1,234.5", "12,345.6")
    file = io.StringIO()
    out = Console(file=file, width=width)
    out.print(fitted(table, out))
    shown = file.getvalue()
    assert all(len(line) <= width for line in shown.splitlines())
    whole = shown.replace("\n", "")
    assert all(whole.count(name) == 1 for name in names)
    assert (shown.count("1,234.5"), shown.count("12,345.6")) == (2, 2)
    assert ("p50 1,234.5" in shown) == (width < 60)
