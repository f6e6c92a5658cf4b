"""The README's path, typed as it stands: the same commands, the same output.

In ``console`` blocks a ``$`` line is a command, the rest its output; ``...`` stands for any
text, on a line of its own for any lines. A command that ends in ``&`` goes on to the end.
A ``python`` block is run, and the ``text`` block after it is what it prints.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
BLOCK = re.compile(r"^```(console|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORTS = ("8001", "8002")
SECONDS = 120


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_the_wildcard_lines_match_what_they_should():
    assert matches(["a 1", "x", "y", "end"], ["a ...", "...", "end"])
    assert not matches(["a 1", "x", "y"], ["a ...", "...", "end"])
    assert not matches(["a 1", "more"], ["a 1"])
    assert not matches(["passed"], ["failed"])


def matches(given: list[str], wanted: list[str]) -> bool:
    if not wanted:
        return not given
    if wanted[0] == "...":
        return any(matches(given[skip:], wanted[1:]) for skip in range(len(given) + 1))
    pattern = re.sub(r"([\[\]])", r"[\1]", wanted[0]).replace("...", "*").replace("?", "[?]")
    return bool(given) and fnmatch.fnmatchcase(given[0], pattern) and matches(given[1:], wanted[1:])


@pytest.fixture
def typist(tmp_path):
    """A folder as a user has it, and a shell in it; what it started ends with the test."""
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    started: list[subprocess.Popen[str]] = []
    yield Typist(tmp_path, started)
    for process in started:
        process.terminate()
        process.communicate(timeout=30)


class Typist:
    """Runs commands as the README has them, on ports that are free here."""

    def __init__(self, folder: Path, started: list[subprocess.Popen[str]]) -> None:
        self.folder = folder
        self.started = started
        with ExitStack() as probes:
            sockets = [probes.enter_context(socket.socket()) for _ in PORTS]
            for probe in sockets:
                probe.bind(("127.0.0.1", 0))
            self.ports = [str(probe.getsockname()[1]) for probe in sockets]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "XDG_STATE_HOME": str(folder / "state")}
        self.environment.pop("TWINPORT_DATA", None)

    def localized(self, text: str) -> str:
        for port, free in zip(PORTS, self.ports, strict=True):
            text = text.replace(port, free)
        return text

    def run(self, command: str, wanted: list[str]) -> list[str]:
        if command.endswith("&"):
            return self.begin(command.rstrip("& "), len(wanted))
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder, env=self.environment, text=True, timeout=SECONDS, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return lines_of(done.stdout)

    def begin(self, command: str, lines: int) -> list[str]:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self.folder, env=self.environment, text=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        self.started.append(process)
        watchdog = threading.Timer(SECONDS, process.kill)
        watchdog.start()
        said = [process.stdout.readline() for _ in range(lines)]
        watchdog.cancel()
        return lines_of("".join(said))


def steps(block: str) -> list[tuple[str, list[str]]]:
    """Commands of a console block, each with the output that follows it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif found:
            found[-1][1].append(line)
    return [(command, lines_of("\n".join(output))) for command, output in found]


def test_the_readme_does_what_it_says(typist):
    blocks = BLOCK.findall(README.read_text(encoding="utf-8"))
    assert {kind for kind, _ in blocks} == {"console", "python", "text"}
    printed: list[str] = []
    for kind, block in blocks:
        text = typist.localized(block)
        if kind == "console":
            for command, wanted in steps(text):
                given = typist.run(command, wanted)
                assert matches(given, wanted), f"{command}\n" + "\n".join(given)
        elif kind == "python":
            program = typist.folder / "block.py"
            program.write_text(text, encoding="utf-8")
            printed = typist.run("python block.py", [])
        else:
            assert matches(printed, lines_of(text)), "\n".join(printed)


def test_every_command_of_the_readme_is_one_of_the_program():
    from runtime.cli import COMMANDS

    named = set(re.findall(r"`twinport (\w+)", README.read_text(encoding="utf-8")))
    assert named == set(COMMANDS)


def test_the_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target


def test_the_picture_of_the_readme_is_a_bundled_digit():
    import numpy as np
    from PIL import Image

    from models.data import digits

    with Image.open(ROOT / "docs" / "images" / "seven.png") as picture:
        pixels = np.asarray(picture)
    bundled = digits()
    place = int(np.flatnonzero(bundled.labels == 7)[0])
    np.testing.assert_array_equal(pixels, bundled.images[place])


def test_the_measured_table_is_the_benchmarks_record(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    place = ROOT / "benchmarks" / "path.py"
    spec = importlib.util.spec_from_file_location("benchmark_path", place)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    record = json.loads(benchmark.RESULTS.read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    assert benchmark.with_table(text, record) == text
    assert set(record["seconds"]) == {"pass", "help", "bare", "export", "parity", "ready", "demo"}
