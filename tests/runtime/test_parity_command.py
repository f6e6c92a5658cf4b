from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from runtime.proof import MAX_LIMIT, RMS_LIMIT

WRONG = {"w": np.ones((4, 3), dtype=np.float32), "axis": np.array([1])}


def fail(folder):
    """Move a version to where an export puts one whose proof failed."""
    target = folder.parent / "failed" / folder.name
    target.parent.mkdir(exist_ok=True)
    folder.rename(target)
    return target


def test_a_sound_version_passes_and_shows_each_number_beside_its_tolerance(
    write_toy, repository, twinport
):
    folder = write_toy()
    ran = twinport("parity", repository / "linear")
    assert (ran.code, ran.err) == (0, "")
    assert f"linear version 1  {folder}" in ran.out
    assert "CPUExecutionProvider" in ran.out
    rows = [line for line in ran.out.splitlines() if line.split()[:1] in (["y"], ["total"])]
    assert len(rows) == 2
    for row in rows:
        assert f"(max {RMS_LIMIT:g})" in row
        assert f"(max {MAX_LIMIT:g})" in row
        assert row.rstrip().endswith("passed")


def test_a_wrong_version_exits_1_and_names_the_first_failure(write_toy, repository, twinport):
    write_toy(weights=WRONG)
    ran = twinport("parity", repository / "linear")
    assert ran.code == 1
    assert "failed" in ran.out
    assert ran.err.startswith(
        "twinport: linear version 1: output 'total' on random inputs is failed: RMS error is "
    )
    assert ran.err.count("\n") == 1


def test_json_holds_verdict_numbers_limits_and_what_ran(write_toy, repository, twinport):
    write_toy()
    ran = twinport("parity", repository / "linear", "--json")
    record = json.loads(ran.out)
    assert (record["model"], record["version"], record["verdict"]) == ("linear", 1, "passed")
    assert record["ran_on"]["provider"] == "CPUExecutionProvider"
    assert {item["output"] for item in record["judgements"]} == {"y", "total"}
    for item in record["judgements"]:
        assert item["rms_factor"] <= item["rms_limit"] == RMS_LIMIT


def test_json_of_a_failure_says_why_and_exits_1(write_toy, repository, twinport):
    write_toy(weights=WRONG)
    ran = twinport("parity", repository / "linear", "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["reason"].startswith("output 'total' on random inputs is failed")


def test_the_highest_version_is_looked_at_and_any_other_on_demand(write_toy, repository, twinport):
    write_toy(version=1, weights=WRONG)
    write_toy(version=12)
    assert "linear version 12" in twinport("parity", repository / "linear").out
    assert twinport("parity", repository / "linear", "--version", 1).code == 1


def test_a_version_that_failed_can_be_looked_at(write_toy, repository, twinport):
    write_toy(version=1)
    target = fail(write_toy(version=2, weights=WRONG))
    ran = twinport("parity", repository / "linear", "--version", 2)
    assert ran.code == 1
    assert f"linear version 2  {target}" in ran.out
    assert "linear version 1" in twinport("parity", repository / "linear").out


def test_where_all_failed_the_last_is_looked_at(write_toy, repository, twinport):
    fail(write_toy(version=1, weights=WRONG))
    fail(write_toy(version=2, weights=WRONG))
    assert "linear version 2" in twinport("parity", repository / "linear").out


def test_the_format_tells_the_backend_where_no_configuration_does(write_toy, repository, twinport):
    write_toy()
    (repository / "linear" / "config.pbtxt").unlink()
    assert twinport("parity", repository / "linear").code == 0


def test_a_backend_that_is_not_known_is_one_line(write_toy, repository, twinport):
    write_toy()
    path = repository / "linear" / "config.pbtxt"
    path.write_text(path.read_text().replace('"onnxruntime"', '"abacus"'))
    ran = twinport("parity", repository / "linear")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        "twinport: backend 'abacus' is not known; "
        "this release has onnxruntime, tensorrt, tensorrt_rtx\n"
    )


def test_a_changed_artifact_is_not_run(write_toy, repository, twinport):
    with (write_toy() / "model.onnx").open("ab") as file:
        file.write(b"\x00")
    ran = twinport("parity", repository / "linear")
    assert (ran.code, ran.out) == (1, "")
    assert "the file was changed after the proof" in ran.err


def test_a_version_without_evidence_fails(write_toy, repository, twinport):
    write_toy("strings")
    ran = twinport("parity", repository / "strings")
    assert ran.code == 1
    assert ran.err == "twinport: strings version 1: the version carries no evidence\n"


def test_a_version_without_manifest_is_one_line(write_toy, repository, twinport):
    write_toy(manifest=False)
    ran = twinport("parity", repository / "linear")
    assert ran.code == 1
    assert "manifest.json cannot be read" in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("path", "argv", "message"),
    [
        ("none", [], "there is no folder"),
        ("", [], "has no version; give REPOSITORY/NAME"),
        ("linear", ["--version", "4"], "has no version 4; there are 1, 3"),
    ],
)
def test_what_is_not_there_is_one_line(path, argv, message, write_toy, repository, twinport):
    write_toy(version=1)
    fail(write_toy(version=3))
    ran = twinport("parity", repository / path, *argv)
    assert ran.code == 1
    assert message in ran.err
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("argv", [[], ["a", "--version", "0"], ["a", "--device", "abacus"]])
def test_wrong_usage_exits_2(argv, twinport):
    assert twinport("parity", *argv).code == 2


def test_a_repository_that_is_only_readable_is_enough(write_toy, repository, twinport):
    folder = write_toy()
    before = sorted(path.name for path in folder.iterdir())
    assert twinport("parity", repository / "linear").code == 0
    assert sorted(path.name for path in folder.iterdir()) == before


def test_torch_and_onnx_stay_out(write_toy, repository, tmp_path):
    write_toy()
    code = (
        "import sys; from runtime.cli import main; code = main(sys.argv[1:]);"
        "print('imported:', [name for name in ('torch', 'onnx') if name in sys.modules]);"
        "sys.exit(code)"
    )
    moved = shutil.move(repository, tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, "-c", code, "parity", f"{moved}/linear"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("imported: []\n")
