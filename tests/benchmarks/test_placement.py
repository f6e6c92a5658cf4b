"""What the page on experts says is what was measured, and the yardstick is what was published."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
RECORD = json.loads((ROOT / "benchmarks" / "results" / "placement.json").read_text("utf-8"))


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import placement_tables

    return placement_tables


@pytest.fixture
def benchmark(tables):
    import placement

    return placement


def test_the_page_holds_the_tables_of_the_record(tables):
    page = (ROOT / "docs" / "experts.md").read_text(encoding="utf-8")
    for name, table in tables.TABLES.items():
        assert f"<!-- {name}:begin -->\n{table(RECORD)}\n<!-- {name}:end -->" in page, name


def test_the_yardstick_levels_as_published_within_two_percent(tables):
    for row in RECORD["published"]:
        flat, grouped = tables.PUBLISHED[row["load"], row["devices"]]
        assert row["global"] == pytest.approx(flat, rel=0.02)
        assert row["hierarchical"] == pytest.approx(grouped, rel=0.02)
        assert row["seconds"] < 1.7


def test_a_missed_aim_is_marked(tables):
    assert tables._judged(0.5, 0.8, 0.6, 0.85).endswith("✓")
    assert tables._judged(0.61, 0.8, 0.6, 0.85).endswith("✗")
    assert tables._judged(0.5, 0.9, 0.6, 0.85).endswith("✗")


def test_every_part_has_seeds_of_its_own(benchmark):
    drawn = [benchmark.seeds(30, "drift", d, k) for d in benchmark.SLOTS for k in benchmark.KEEPS]
    assert len(np.unique(drawn)) == 180


def test_one_trace_scores_both_kinds_of_shares(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "FORM", (2, 64))
    monkeypatch.setattr(benchmark, "SLOTS", {8: 72})
    counts = benchmark.drifting(1, 8, (2, 64), keeps=0.95).counts
    found = benchmark.one_trace(counts, 8)
    assert found["ours live"] < found["ours planned"]
    assert found["ours moved"] <= 0.03 * 72 * 2
    assert found["eplb moved"] > 60
    assert found["floor"] > 0
