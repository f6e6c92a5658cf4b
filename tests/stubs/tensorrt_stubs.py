"""Write typed stubs of the real TensorRT on a machine that has neither TensorRT nor a GPU.

    python tests/stubs/tensorrt_stubs.py build/stubs

NVIDIA's wheel of the Python bindings is one extension module without type information, and
the libraries that it wants are not in it. Empty libraries of the names that it asks for, with
empty functions of the names that it looks up, satisfy the loader: nothing can be called then,
but every signature can be read, which pybind11-stubgen does. ``clean_stubs`` makes stubs of
what it prints. Needs gcc, readelf and nm.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from clean_stubs import cleaned

WHEEL = "tensorrt_cu13_bindings==11.4.*"
"""The release that the code is checked against; the one place that says so."""
TOOLS = ("gcc", "readelf", "nm")
_PACKAGE, _EXTENSION = "tensorrt_bindings", "tensorrt"
_NEEDED = re.compile(r"\(NEEDED\).*\[(libnv\w+\.so[.\d]*)\]")
_LIMIT_S = 300


class StubError(Exception):
    """The stubs cannot be made here; the text is one line that says why."""


def main(argv: list[str]) -> int:
    """Make the stubs in a folder that mypy is to search."""
    if len(argv) != 1:
        print("usage: tensorrt_stubs.py FOLDER", file=sys.stderr)
        return 2
    try:
        print(make_stubs(Path(argv[0])))
    except StubError as error:
        print(f"tensorrt_stubs: {error}", file=sys.stderr)
        return 1
    return 0


def make_stubs(folder: Path) -> Path:
    """Write ``FOLDER/tensorrt/__init__.pyi``: the whole file, or none.

    Raises:
        StubError: A tool or the wheel is missing, or the bindings cannot be read.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise StubError(f"{', '.join(missing)} is missing; apt-get install gcc binutils")
    with tempfile.TemporaryDirectory() as work:
        wheel = _downloaded(Path(work))
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work)
        extension = Path(work, _PACKAGE, f"{_EXTENSION}.so")
        _write_empty_libraries(extension)
        raw = _read_signatures(Path(work))
    try:
        text = cleaned(raw)
    except SyntaxError as error:
        raise StubError(
            f"line {error.lineno} of the signatures is no Python: {error.text}"
        ) from error
    return _written(folder / "tensorrt" / "__init__.pyi", f"# From {wheel.name}.\n{text}")


def _written(target: Path, text: str) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{os.getpid()}.pyi")
    partial.write_text(text, encoding="utf-8")
    return partial.replace(target)


def _downloaded(work: Path) -> Path:
    _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
          "--dest", str(work), WHEEL], f"{WHEEL} cannot be downloaded")  # fmt: skip
    return next(work.glob("*.whl"))


def _write_empty_libraries(extension: Path) -> None:
    """Beside the extension, where its run path looks for them; the first has the functions."""
    dynamic = _run(["readelf", "--dynamic", "--wide", str(extension)], "no bindings")
    undefined = _run(["nm", "--dynamic", "--undefined-only", str(extension)], "no bindings")
    source = extension.with_suffix(".c")
    functions = _entry_points(undefined)
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
    for name in _NEEDED.findall(dynamic):
        library = extension.with_name(name)
        _run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(library), str(source)],
             "an empty library cannot be made")  # fmt: skip
        source.write_text("")


def _entry_points(undefined: str) -> list[str]:
    """Names without a version that are not Python's: those of NVIDIA's own libraries."""
    lines = (line.split() for line in undefined.splitlines())
    strong = [line[1] for line in lines if line[0] == "U" and "@" not in line[1]]
    return [name for name in strong if not re.match(r"_?Py|dl(open|close|sym)$", name)]


def _read_signatures(work: Path) -> str:
    module, stubs = f"{_PACKAGE}.{_EXTENSION}", work / "stubs"
    _run([sys.executable, "-m", "pybind11_stubgen", module, "--output-dir", str(stubs),
          "--ignore-all-errors", "--print-invalid-expressions-as-is"],
         "the signatures cannot be read", PYTHONPATH=str(work))  # fmt: skip
    return (stubs / _PACKAGE / f"{_EXTENSION}.pyi").read_text(encoding="utf-8")


def _run(command: list[str], problem: str, **variables: str) -> str:
    """Standard output of a program; its last line of error where it fails."""
    try:
        done = subprocess.run(
            command, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=True, timeout=_LIMIT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise StubError(f"{problem}: no answer in {_LIMIT_S} s") from error
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise StubError(f"{problem}: {said}") from error
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
