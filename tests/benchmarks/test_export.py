"""The table of what an export costs is the record's, and a ratio over its limit is a problem."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def export(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "export", raising=False)
    return importlib.import_module("export")


def record(seconds):
    proof = {"verdict": "passed", "seconds": 1.0, "random_samples": 26, "cut_by_budget": True}
    return {
        "rounds": 2, "machine": "2 cores", "versions": {"torch": "2.14"},
        "seconds": {
            name: {"bare": 2.0, "export": seconds} for name in ("LeNet-5", "ResNet-18", "ViT-B/32")
        } | {"help": {"bare": 0.02, "export": 0.05}},
        "proofs": dict.fromkeys(("LeNet-5", "ResNet-18", "ViT-B/32"), proof),
    }  # fmt: skip


def test_a_ratio_over_its_limit_is_a_problem(export):
    assert export.problems(record(5.0)) == []
    assert export.problems(record(6.5)) == ["LeNet-5", "ResNet-18", "ViT-B/32"]


def test_the_table_says_what_was_cut_and_what_is_beside(export):
    table = export.table_from_record(record(5.0))
    assert "ResNet-18 (26 random samples, cut by its budget) | 5.0 |" in table
    assert "2.50 (3)" in table
    assert "2.50 (4)" in table


def test_the_document_has_the_table_of_the_record(export):
    text = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    kept = json.loads(export.RESULTS.read_text(encoding="utf-8"))
    assert export.table_from_record(kept) in text
