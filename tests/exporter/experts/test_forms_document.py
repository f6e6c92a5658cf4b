"""The table of the forms in the documentation is the benchmark's record."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_measured_table_is_the_benchmarks_record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import moe_forms

    record = json.loads((ROOT / "benchmarks/results/moe_forms.json").read_text("utf-8"))
    text = (ROOT / "docs/moe.md").read_text("utf-8")
    assert moe_forms.with_table(text, record) == text
