"""A test whose tool is missing skips with the reason, and fails where tools are required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import pytest

@pytest.mark.needs_tool("no-such-tool", "install it")
def test_that_needs_it():
    pass
"""


def run(tmp_path, **variables):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(PROGRAM)
    environment = {k: v for k, v in os.environ.items() if k != "TWINPORT_REQUIRE_TOOLS"}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path),
         "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)],
        env=environment | variables, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_missing_tool_skips_with_its_name_and_cure(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "no-such-tool is missing; install it" in done.stdout


def test_a_missing_tool_fails_where_tools_are_required(tmp_path):
    done = run(tmp_path, TWINPORT_REQUIRE_TOOLS="1")
    assert done.returncode == 1, done.stdout
    assert "no-such-tool is missing; install it" in done.stdout
