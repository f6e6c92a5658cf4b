"""What report prints, where it writes, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import webbrowser

import pytest


@pytest.fixture
def run(run, monkeypatch, tmp_path):
    """Run ``twinport`` where there is no browser, so that nothing is drawn."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv("TWINPORT_CHROMIUM", raising=False)
    return run


@pytest.fixture
def model(linear, tmp_path):
    """A model's folder of its own, with one version."""
    folder = tmp_path / "repository" / "net"
    shutil.copytree(linear.folder.parent, folder)
    return folder


def test_the_page_goes_into_the_versions_folder_and_its_path_is_printed(run, model):
    before = {path.name for path in (model / "1").iterdir()}
    code, out, _ = run("report", model)
    assert (code, out) == (0, f"{model / '1' / 'report.html'}\n")
    assert {path.name for path in (model / "1").iterdir()} - before == {"report.html"}
    assert "<h2>Proof</h2>" in (model / "1" / "report.html").read_text(encoding="utf-8")
    assert run("parity", model)[0] == 0, "the version is as good as before"


def test_another_file_and_version_can_be_named(run, model, tmp_path):
    failed = model / "failed" / "2"
    shutil.copytree(model / "1", failed)
    record = json.loads((failed / "manifest.json").read_text()) | {"version": 2}
    record["proofs"][0] |= {"verdict": "failed", "reason": "one weight is off"}
    (failed / "manifest.json").write_text(json.dumps(record))
    target = tmp_path / "page.html"
    code, out, _ = run("report", model, "--version", 2, "-o", target)
    assert (code, out) == (0, f"{target}\n")
    assert "one weight is off" in target.read_text(encoding="utf-8")
    assert not (failed / "report.html").exists()


def test_an_old_page_is_replaced_and_no_draft_stays(run, model):
    page = model / "1" / "report.html"
    page.write_text("old")
    assert run("report", model)[0] == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in page.parent.iterdir() if path.name.startswith(".")] == []


def test_a_page_that_cannot_be_written_is_one_line_with_the_way_out(run, model, monkeypatch):
    (model / "1" / "report.html").mkdir()
    code, _, err = run("report", model)
    assert code == 1
    (line,) = err.splitlines()
    assert line.endswith("cannot be written: it is a folder; name another file with -o")
    code, _, err = run("report", model, "-o", model / "gone" / "page.html")
    assert code == 1
    assert err.endswith("there is no such folder; name another file with -o\n")
    monkeypatch.setattr(os, "access", lambda _, mode, **__: not mode & os.W_OK)
    code, _, err = run("report", model, "-o", model / "page.html")
    assert code == 1
    assert err.endswith("permission denied; name another file with -o\n")


def test_a_disk_that_refuses_leaves_the_old_page(run, model, monkeypatch):
    page = model / "1" / "report.html"
    page.write_text("old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    code, _, err = run("report", model)
    assert code == 1
    assert "report.html cannot be written: No space left on device" in err.splitlines()[-1]
    assert page.read_text() == "old"
    assert [path.name for path in page.parent.iterdir() if path.name.startswith(".")] == []


def test_what_is_no_version_is_one_line(run, model, tmp_path):
    (model / "1" / "manifest.json").unlink()
    for words, text in (
        ((model,), "manifest.json cannot be read"),
        ((model, "--version", 3), "has no version 3; there are 1"),
        ((tmp_path / "gone",), "there is no folder"),
    ):
        code, out, err = run("report", *words)
        assert (code, out) == (1, "")
        (line,) = err.splitlines()
        assert text in line


def test_the_page_can_be_opened_at_once(run, model, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))
    code, _, err = run("report", model, "--browse")
    assert code == 0
    assert opened == [(model / "1" / "report.html").as_uri()]
    assert "no browser was found" in err
