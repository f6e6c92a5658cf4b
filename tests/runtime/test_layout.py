"""A version comes in whole or not at all, whatever happens on the way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import InvalidInput, NotFound, RepositoryError
from runtime.layout import (
    check_model_name,
    is_served_name,
    model_names,
    next_version,
    publish,
    staged_folder,
    version_numbers,
    write_atomically,
)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below, with what files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "line\nbreak"])
def test_names_that_no_served_model_has(name):
    assert not is_served_name(name)


@pytest.mark.parametrize("name", ["lenet5", "ViT-B_16.v2", "7b", "a"])
def test_names_that_are_folders_everywhere_are_taken(name):
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "a\\b", "a b", "-o", "_x", "müll", "a\n", "../x"]
)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(InvalidInput, match="cannot be used"):
        check_model_name(name)


def test_only_plain_numbers_from_one_are_versions(tmp_path):
    for name in ("1", "3", "12", "0", "01", "-2", "2x", ".staging-1", "failed", "२"):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert version_numbers(tmp_path) == [1, 3, 12]
    assert version_numbers(tmp_path / "nowhere") == []


def test_the_next_version_is_above_failed_ones_too(tmp_path):
    assert next_version(tmp_path) == 1
    (tmp_path / "2").mkdir()
    (tmp_path / "failed" / "5").mkdir(parents=True)
    assert next_version(tmp_path) == 6


def test_models_are_folders_with_a_models_name(tmp_path):
    for name in ("b", "a", ".git"):
        (tmp_path / name).mkdir()
    (tmp_path / "README").write_text("")
    assert model_names(tmp_path) == ["a", "b"]
    with pytest.raises(NotFound, match="is not a folder"):
        model_names(tmp_path / "README")


def test_a_version_appears_at_once_and_whole(tmp_path):
    model = tmp_path / "repository" / "net"
    with staged_folder(model) as staging:
        (staging / "model.onnx").write_bytes(b"graph")
        (staging / "deep").mkdir()
        (staging / "deep" / "weights").write_bytes(b"w")
        assert version_numbers(model) == []
        target = publish(staging, model, 1)
        assert target == model / "1"
    assert tree(model) == {"1": None, "1/model.onnx": b"graph", "1/deep": None,
                           "1/deep/weights": b"w"}  # fmt: skip


def test_a_failed_version_lies_where_no_server_looks(tmp_path):
    with staged_folder(tmp_path / "net") as staging:
        publish(staging, tmp_path / "net", 4, failed=True)
    assert version_numbers(tmp_path / "net") == []
    assert version_numbers(tmp_path / "net" / "failed") == [4]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_repository_as_it_was(tmp_path, error):
    def attempt(folder):
        with staged_folder(folder) as staging:
            (staging / "model.onnx").write_bytes(b"half")
            raise error

    (tmp_path / "old" / "1").mkdir(parents=True)
    (tmp_path / "old" / "1" / "model.onnx").write_bytes(b"graph")
    before = tree(tmp_path)
    for folder in (tmp_path / "old", tmp_path / "deep" / "new" / "net"):
        with pytest.raises(error):
            attempt(folder)
        assert tree(tmp_path) == before


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path):
    def attempt():
        with staged_folder(tmp_path / "repository" / "net"):
            raise OSError(28, "No space left on device")

    with pytest.raises(RepositoryError, match="net failed: No space left on device"):
        attempt()
    assert tree(tmp_path) == {}


def test_a_file_in_the_way_is_one_clear_error(tmp_path):
    (tmp_path / "repository").write_text("not a folder")
    with pytest.raises(RepositoryError, match="cannot be written"), \
            staged_folder(tmp_path / "repository" / "net"):  # fmt: skip
        pytest.fail("there is no folder to fill")
    assert (tmp_path / "repository").read_text() == "not a folder"


def test_a_number_that_another_export_took_is_not_overwritten(tmp_path):
    model = tmp_path / "net"
    (model / "1").mkdir(parents=True)
    (model / "1" / "model.onnx").write_bytes(b"theirs")

    def attempt():
        with staged_folder(model) as staging:
            (staging / "model.onnx").write_bytes(b"ours")
            publish(staging, model, 1)

    with pytest.raises(RepositoryError, match="version 1 of net cannot be put in place"):
        attempt()
    assert tree(model) == {"1": None, "1/model.onnx": b"theirs"}


def test_data_reach_the_disk_before_the_rename(tmp_path, monkeypatch):
    order: list[str] = []
    flush, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("flush"), flush(fd)))
    monkeypatch.setattr(Path, "rename", lambda a, b: (order.append("rename"), rename(a, b))[1])
    with staged_folder(tmp_path / "net") as staging:
        (staging / "a").write_bytes(b"1")
        (staging / "b").write_bytes(b"2")
        publish(staging, tmp_path / "net", 1)
    assert order == ["flush", "flush", "rename", "flush"]


def test_a_small_file_is_replaced_whole_or_kept(tmp_path, monkeypatch):
    path = tmp_path / "config.pbtxt"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "newest")
    assert tree(tmp_path) == {"config.pbtxt": b"new"}
