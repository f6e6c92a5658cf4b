"""The instrument's own check: correct models pass with room to spare, faults are found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def calibration(output: Path, *options: str):
    """The benchmark's record; its process must end well."""
    command = [sys.executable, "benchmarks/tolerance.py", "--check", "--output", str(output)]
    ended = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert output.is_file(), ended.stderr
    record = json.loads(output.read_text())
    assert record["problems"] == []
    assert ended.returncode == 0, ended.stderr
    return record


def test_a_part_of_the_calibration_holds(tmp_path):
    record = calibration(tmp_path / "quick.json", "--quick")
    verdicts = {row["model"]: (row["verdict"], row["batchable"]) for row in record["models"]}
    assert verdicts["lenet5"] == ("passed", True)
    assert verdicts["centred over the batch"] == ("passed", False)
    found = {row["fault"]: (row["found"], row["replay_found"]) for row in record["faults"]}
    assert len(verdicts) == 5
    assert len(found) == 6
    # Too small to have to be found, and found or not by chance.
    del found["median weight of fc3 off by 1e-4"]
    assert set(found.values()) == {(True, True)}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_calibration_holds(tmp_path):
    record = calibration(tmp_path / "full.json")
    assert len(record["models"]) >= 14
    kinds = {row["model"] for row in record["faults"] if row["found"]}
    assert {"lenet5", "residual CNN, BatchNorm", "transformer encoder"} <= kinds


def test_the_documents_tables_are_the_benchmarks_record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import report

    record = json.loads((ROOT / "benchmarks/results/tolerance.json").read_text("utf-8"))
    assert report.markdown(record) in (ROOT / "docs/tolerance.md").read_text("utf-8")
    assert record["problems"] == []
