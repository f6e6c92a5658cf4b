from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from protos import generate


@pytest.fixture
def copied_sources(tmp_path: Path) -> Path:
    for name in generate.SOURCES:
        shutil.copy(generate.FOLDER / name, tmp_path / name)
    return tmp_path


def test_the_committed_files_are_what_the_sources_give() -> None:
    generate.main(["--check"])


def test_written_files_pass_the_check(copied_sources: Path) -> None:
    generate.main([], copied_sources)
    generate.main(["--check"], copied_sources)


@pytest.mark.parametrize("file", ["inference.binpb", "messages.pyi"])
def test_a_missing_file_is_stale(copied_sources: Path, file: str) -> None:
    generate.main([], copied_sources)
    (copied_sources / file).unlink()
    with pytest.raises(SystemExit, match=f"{file} is stale; run `python -m protos.generate`"):
        generate.main(["--check"], copied_sources)


def test_a_changed_source_makes_the_files_stale(copied_sources: Path) -> None:
    generate.main([], copied_sources)
    source = copied_sources / "inference.proto"
    source.write_text(source.read_text().replace("bool live = 1;", "bool alive = 1;"))
    with pytest.raises(SystemExit, match="stale"):
        generate.main(["--check"], copied_sources)


def test_a_changed_comment_does_not(copied_sources: Path) -> None:
    generate.main([], copied_sources)
    source = copied_sources / "inference.proto"
    source.write_text(source.read_text() + "// Another word.\n")
    generate.main(["--check"], copied_sources)


def test_a_source_that_protoc_refuses_names_the_line(copied_sources: Path) -> None:
    (copied_sources / "inference.proto").write_text('syntax = "proto3";\nmessage {}\n')
    with pytest.raises(SystemExit, match=r"inference\.proto:2:9"):
        generate.main([], copied_sources)


def test_an_argument_that_is_not_known_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stopped:
        generate.main(["--chekc"])
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err
