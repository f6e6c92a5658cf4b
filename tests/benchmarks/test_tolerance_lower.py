"""The rules of lower precisions are calibrated, and the documents say what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.precision import FULL, RULES

ROOT = Path(__file__).parents[2]


def test_a_part_of_the_calibration_holds(tmp_path):
    output = tmp_path / "quick.json"
    command = [sys.executable, "benchmarks/tolerance_lower.py", "--quick", "--check", "--output"]
    ended = subprocess.run([*command, output], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    record = json.loads(output.read_text())
    assert [row["verdict"] for row in record["models"]] == ["passed"] * 3
    assert all(row["found"] and row["replay_found"] for row in record["faults"])
    assert record["faults"]


@pytest.mark.parametrize("precision", [name for name in RULES if name != FULL])
def test_each_rule_stands_in_the_document_as_it_is_in_the_table(precision):
    rule = RULES[precision]
    line = next(
        line for line in (ROOT / "docs/precision.md").read_text("utf-8").splitlines()
        if line.startswith(f"| {precision} | {rule.snr_db:g} dB")
    )  # fmt: skip
    assert f"| {rule.label_share / 100:g} % |" in line


def test_the_tables_of_the_document_are_the_benchmarks_record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import tolerance_lower

    record = json.loads((ROOT / "benchmarks/results/tolerance_lower.json").read_text("utf-8"))
    assert tolerance_lower.markdown(record) in (ROOT / "docs/tolerance.md").read_text("utf-8")
    assert record["problems"] == []
