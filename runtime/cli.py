"""The program ``twinport``: a table of commands, each imported when it is called.

Only click comes in with this module, so that ``--help`` is instant and serving needs no
torch. The table names modules by text because the runtime may not import the exporter.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

import click

from runtime.errors import BackendUnavailable

PROGRAM = "twinport"
INTERRUPTED = 130
LEVELS = ("debug", "info", "warning", "error")
_OURS = ("exporter", "models", "runtime")
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write fails with; Python names no file where it was our output."""


@dataclass(frozen=True)
class Entry:
    """Where a command lives.

    Attributes:
        target: ``module:attribute`` of the click command.
        help: One line for ``twinport --help``.
        log_level: What is logged where the user says nothing.
    """

    target: str
    help: str
    log_level: str = "warning"


COMMANDS = {
    "train": Entry(
        "exporter.commands.train:train", "Train a built-in model and keep its best weights."
    ),
    "export": Entry(
        "exporter.commands.export:export", "Export a PyTorch model, prove it, write a version."
    ),
    "engine": Entry(
        "exporter.commands.engine:engine", "Build a TensorRT engine from a proved version."
    ),
    "inspect": Entry(
        "exporter.commands.inspect:inspect", "Show what a model or an artifact is made of."
    ),
    "parity": Entry("runtime.commands.parity:parity", "Run the proof of a version again, here."),
    "diff": Entry("exporter.commands.diff:diff", "Compare two versions or artifacts."),
    "report": Entry("exporter.commands.report:report", "Write one page about a version."),
    "serve": Entry("runtime.commands.serve:serve", "Serve a model repository over gRPC.", "info"),
    "infer": Entry("runtime.commands.infer:infer", "Send files to a served model."),
    "bench": Entry("runtime.commands.bench:bench", "Measure how fast a served model answers."),
    "top": Entry("runtime.commands.top:top", "Watch what the models of a server do."),
    "experts": Entry("runtime.commands.experts:experts", "Place experts; replay traces of load."),
    "demo": Entry(
        "exporter.commands.demo:demo", "Go the whole way once, from checkpoint to answer."
    ),
}

LAYER_PROOF = "exporter.commands.layers:show_layers"
"""What ``parity --layers`` does; named by text as the commands are, since it needs torch."""

_EXTRAS = dict.fromkeys(
    (
        "torch", "torchvision", "onnx", "onnx_ir", "onnxscript", "sklearn", "matplotlib",
        "netron", "torchviz", "graphviz", "jinja2", "markupsafe",
    ),
    "export,cpu",
)  # fmt: skip
"""The extras of ``pip install`` that bring a library."""


def load_target(target: str) -> Any:
    """What ``module:attribute`` names."""
    module, attribute = target.split(":")
    return getattr(import_module(module), attribute)


class _Late(click.Command):
    """Stands for a command in the listing; imports it when it is called."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.help)
        self.target = entry.target

    def load(self) -> click.Command:
        return cast(click.Command, load_target(self.target))

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        return self.load().make_context(info_name, args, parent, **extra)


class _Program(click.Group):
    """The table as a click group, in the order in which a model goes through it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return _Late(cmd_name, COMMANDS[cmd_name]) if cmd_name in COMMANDS else None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise _missing_library(error, f"{PROGRAM} {ctx.invoked_subcommand}") from error


@click.group(cls=_Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="twinport", message="%(prog)s %(version)s")
@click.option("-v", "--verbose", is_flag=True, help="The same as --log-level info.")
@click.option("--log-level", type=click.Choice(LEVELS), help="What goes to the log on stderr.")
@click.pass_context
def program(ctx: click.Context, verbose: bool, log_level: str | None) -> None:
    """Take a PyTorch model to a served endpoint and prove that it is still the same model."""
    entry = COMMANDS.get(ctx.invoked_subcommand or "")
    level = log_level or ("info" if verbose else entry.log_level if entry else "warning")
    set_up_logging(level)
    if ctx.invoked_subcommand != "serve":
        # Read when gRPC is imported. What it tells of a failed call in many lines, we do in one.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def set_up_logging(level: str) -> None:
    """Log ours from ``level`` up and other libraries from warnings up, to stderr."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``twinport``; returns the exit code."""
    return run_command(program, argv, name=PROGRAM)


def run_command(
    command: click.Command, argv: Sequence[str] | None = None, *, name: str = PROGRAM
) -> int:
    """Run one command as a program does, with the errors of the project as one line each.

    Args:
        command: The command or group.
        argv: Its arguments; those of the process where none are given.
        name: The program's name in usage texts.

    Returns:
        The exit code: 0, 1 for a known failure, 2 for wrong usage, 130 after Ctrl-C, or
        what the command itself set with ``Context.exit``. An unforeseen exception other
        than the system's goes through, with its traceback.
    """
    arguments = None if argv is None else list(argv)
    try:
        result = command.main(args=arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except click.Abort:
        return _fail("interrupted", INTERRUPTED)
    except click.UsageError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except BrokenPipeError:
        return _leave_quietly()
    except OSError as error:
        return _fail(_said_by_system(error), 1)
    except ModuleNotFoundError as error:
        missing = _missing_library(error, name)
        return _fail(str(missing), missing.exit_code)
    except Exception as error:
        code = getattr(type(error), "exit_code", None)
        if code is None:
            raise
        return _fail(str(error), code)
    # Without standalone mode click hands the code of Context.exit back as the result.
    return result if type(result) is int else 0


def _fail(text: str, code: int) -> int:
    """One line on stderr; the traceback before it where ``TWINPORT_DEBUG`` is set."""
    if os.environ.get("TWINPORT_DEBUG", "0") not in ("", "0"):
        traceback.print_exc()
    click.echo(f"{PROGRAM}: {' '.join(text.split())}", err=True)
    return code


def _missing_library(error: ModuleNotFoundError, what: str) -> BackendUnavailable:
    """The cure for a library that an extra brings.

    Raises:
        ModuleNotFoundError: The module is in no extra; this is a defect of the program.
    """
    library = (error.name or "").partition(".")[0]
    if library not in _EXTRAS:
        raise error
    return BackendUnavailable(f"{what} needs {library}; pip install 'twinport[{_EXTRAS[library]}]'")


def _said_by_system(error: OSError) -> str:
    """The file and what is wrong with it; our own output where no file is named."""
    said = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {said}"
    if error.errno in _UNWRITABLE:
        _drop_output()
        return f"the output cannot be written: {said}"
    return said


def _leave_quietly() -> int:
    """Whoever read our output has gone."""
    _drop_output()
    return 1


def _drop_output() -> None:
    """Keep the interpreter from flushing into a pipe or a file that takes nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
