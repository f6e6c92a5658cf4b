from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.metadata import entry_points, version

import click
import pytest

from runtime import cli
from runtime.errors import NotFound, UsageProblem

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "grpc", "google.protobuf", "rich", "PIL")


def run_python(code: str, *argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


def a_command(callback: object) -> click.Command:
    return click.Command("work", callback=callback)  # type: ignore[arg-type]


def raising(error: BaseException) -> click.Command:
    def work() -> None:
        raise error

    return a_command(work)


def test_help_lists_every_command_and_imports_no_library():
    code = (
        "import sys; from runtime.cli import main; code = main(['--help']);"
        f"print('imported:', [name for name in {HEAVY!r} if name in sys.modules]);"
        "sys.exit(code)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("imported: []\n")
    for name, entry in cli.COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert entry.help in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_table_is_there_and_has_a_help(name, twinport):
    ran = twinport(name, "--help")
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"Usage: twinport {name} ")


@pytest.mark.parametrize("name", ["serve", "infer", "parity", "bench", "top"])
def test_commands_of_the_runtime_import_neither_torch_nor_onnx(name):
    code = (
        f"import sys; from runtime.cli import main; code = main([{name!r}, '--help']);"
        "print('imported:', [name for name in ('torch', 'onnx') if name in sys.modules]);"
        "sys.exit(code)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("imported: []\n")


def test_the_version_is_that_of_the_distribution(twinport):
    assert twinport("--version").out == f"twinport {version('twinport')}\n"


def test_both_programs_are_installed():
    scripts = {
        item.name: item.load()
        for item in entry_points(group="console_scripts")
        if item.dist is not None and item.dist.name == "twinport"
    }
    assert sorted(scripts) == ["export", "twinport"]
    assert all(callable(program) for program in scripts.values())


def test_an_unknown_command_is_a_usage_error(twinport):
    ran = twinport("sreve")
    assert ran.code == 2
    assert "No such command 'sreve'" in ran.err


def test_an_unknown_option_is_a_usage_error(twinport):
    assert twinport("--no-such-option").code == 2


@pytest.mark.parametrize(("library", "named"), [("torch", "torch"), ("onnx.helper", "onnx")])
def test_a_missing_library_is_one_line_with_the_cure(library, named, twinport, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr(cli, "import_module", missing)
    ran = twinport("export", "lenet5")
    assert ran.code == 1
    assert ran.err == f"twinport: twinport export needs {named}; " + (
        "pip install 'twinport[export,cpu]'\n"
    )


def test_a_module_that_no_extra_brings_is_a_defect_with_its_traceback(twinport, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'runtime.gone'", name="runtime.gone")

    monkeypatch.setattr(cli, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"runtime\.gone"):
        twinport("serve")


def test_a_known_error_is_one_line_and_exit_1(capsys):
    code = cli.run_command(raising(NotFound("there is no model\n  'a'")), [])
    assert code == 1
    assert capsys.readouterr() == ("", "twinport: there is no model 'a'\n")


def test_an_error_brings_its_own_exit_code(capsys):
    class Foreign(Exception):
        exit_code = 7

    assert cli.run_command(raising(UsageProblem("not together")), []) == 2
    assert cli.run_command(raising(Foreign("theirs")), []) == 7
    assert capsys.readouterr().err == "twinport: not together\ntwinport: theirs\n"


def test_debug_shows_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("TWINPORT_DEBUG", "1")
    assert cli.run_command(raising(NotFound("no model")), []) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("twinport: no model\n")


def test_an_unforeseen_error_goes_through():
    with pytest.raises(ZeroDivisionError):
        cli.run_command(raising(ZeroDivisionError()), [])


def test_ctrl_c_is_one_line_and_exit_130(capsys):
    assert cli.run_command(raising(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err.split("\n") == ["", "twinport: interrupted", ""]


def test_a_command_sets_the_exit_code_through_its_context():
    assert cli.run_command(a_command(lambda: click.get_current_context().exit(3)), []) == 3
    assert cli.run_command(a_command(lambda: None), []) == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("say", ["print", "__import__('click').echo"])
def test_output_that_cannot_be_written_is_one_line_and_exit_1(say, unbuffered):
    code = (
        "import click; from runtime.cli import run_command; import sys;"
        f"work = click.Command('work', callback=lambda: {say}('x' * 9));"
        "sys.exit(run_command(work, []))"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        )
    assert done.stderr == "twinport: the output cannot be written: No space left on device\n"
    assert done.returncode == 1


def test_an_error_of_the_system_is_one_line_with_the_file_it_is_about(capsys, tmp_path):
    def work() -> None:
        (tmp_path / "gone").read_text()

    assert cli.run_command(a_command(work), []) == 1
    said = f"twinport: {tmp_path / 'gone'}: No such file or directory\n"
    assert capsys.readouterr() == ("", said)
    assert cli.run_command(raising(OSError("no number")), []) == 1
    assert capsys.readouterr().err == "twinport: no number\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered):
    code = (
        "import click; from runtime.cli import run_command; import sys;"
        "work = click.Command('work', callback=lambda: print('x' * 9, end=''));"
        "sys.stdin.read(); sys.exit(run_command(work, []))"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    program.stdin.close()
    with program.stderr as stderr:
        assert stderr.read() == b""
    assert program.wait(timeout=60) == 1


@pytest.mark.parametrize(
    ("options", "level"),
    [([], "WARNING"), (["-v"], "INFO"), (["--log-level", "debug"], "DEBUG")],
)
def test_the_log_level_is_what_the_user_says(options, level, twinport, tmp_path):
    twinport(*options, "parity", tmp_path / "none")
    assert logging.getLevelName(logging.getLogger("runtime").level) == level


def test_the_package_run_as_a_program_is_serve():
    done = subprocess.run(
        [sys.executable, "-m", "runtime", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: twinport serve ")
