"""The place in the user's code that an error or a node of a graph comes from."""

from __future__ import annotations

import linecache
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from types import FrameType

import torch
from torch import fx, nn

_LONGEST = 80
_TRACED = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')
_STDLIB = Path(sysconfig.get_paths()["stdlib"])
_PACKAGES = Path(torch.__file__).parents[1]
_NOT_THEIRS = (Path(torch.__file__).parent, Path(__file__).parents[1])


@dataclass(frozen=True)
class Place:
    """A line of the user's code, and the module that was running.

    Attributes:
        path: Of the module in the module tree; empty for the root, none where not known.
        kind: Its class.
        file: Name of the file, without its folder; empty where no line is known.
    """

    path: str | None = None
    kind: str = ""
    file: str = ""
    line: int = 0
    code: str = ""

    @property
    def module(self) -> str:
        """``module 'blocks.1' (Block)``, or the class alone for the root."""
        return f"module '{self.path}' ({self.kind})" if self.path else self.kind

    @property
    def at(self) -> str:
        """The line for a message, in brackets, with a space before; empty where not known."""
        return f" ({self.file}:{self.line}: {self.code})" if self.file else ""


def place_of_error(error: BaseException, module: nn.Module) -> Place:
    """The innermost line of the user's, and the innermost module that was running."""
    found: Place | None = None
    for cause in _chain(error):
        frames = [frame for frame, _ in walk_tb(cause.__traceback__)]
        lines = [line for _, line in walk_tb(cause.__traceback__)]
        found = place_of_frames(frames, lines, module)
        if found.file:
            return found
    return found or Place("", type(module).__name__)


def place_of_frames(frames: list[FrameType], lines: list[int], module: nn.Module) -> Place:
    """The same of running or ended frames, from the outermost in."""
    names = {id(inner): path for path, inner in module.named_modules()}
    path, kind = "", type(module).__name__
    file, number = "", 0
    for frame, line in zip(frames, lines, strict=True):
        running = _first_argument(frame)
        if id(running) in names:
            path, kind = names[id(running)], type(running).__name__
        if is_users(frame.f_code.co_filename):
            file, number = frame.f_code.co_filename, line
    return Place(path, kind, Path(file).name if file else "", number, _code(file, number))


def place_of_node(error: BaseException, module: nn.Module) -> Place:
    """The place of the graph's node that was worked on when the error came."""
    for cause in _chain(error):
        for frame, _ in reversed(list(walk_tb(cause.__traceback__))):
            for value in frame.f_locals.values():
                if isinstance(value, fx.Node) and value.meta.get("stack_trace"):
                    return _place_in_meta(value, module)
    return Place("", type(module).__name__)


def is_users(file: str) -> bool:
    """Whether a file is of the user or of a library with models, not of torch or ours."""
    path = Path(file)
    if file.startswith("<") or any(path.is_relative_to(place) for place in _NOT_THEIRS):
        return False
    return path.is_relative_to(_PACKAGES) or not path.is_relative_to(_STDLIB)


def _place_in_meta(node: fx.Node, module: nn.Module) -> Place:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    known = dict(module.named_modules())
    path = path if path in known else ""
    traced = [m for m in _TRACED.finditer(node.meta["stack_trace"]) if is_users(m["file"])]
    kind = type(known[path]).__name__
    if not traced:
        return Place(path, kind)
    file, line = traced[-1]["file"], int(traced[-1]["line"])
    return Place(path, kind, Path(file).name, line, _code(file, line))


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _first_argument(frame: FrameType) -> object:
    code = frame.f_code
    return frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None


def _code(file: str, line: int) -> str:
    text = " ".join(linecache.getline(file, line).split()) if file else ""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
