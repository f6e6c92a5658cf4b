"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import click

from runtime.tensors import TensorSpec, spec_from_text

Command = TypeVar("Command", bound=Callable[..., Any])
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
_RANGE = re.compile(r"(?P<name>[^=\s]+)\s*=\s*(?P<low>-?\d+)(:(?P<high>-?\d+))?")
_NUMBER = r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_VALUES = re.compile(rf"(?P<name>[^=\s]+)\s*=\s*(?P<low>{_NUMBER})(:(?P<high>{_NUMBER}))?")


_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<unit>[KMG]?B?)", re.IGNORECASE)
_UNITS = {"": 1, "B": 1, "K": 10**3, "KB": 10**3, "M": 10**6, "MB": 10**6, "G": 10**9, "GB": 10**9}


class RangeType(click.ParamType[tuple[str, tuple[int, int]]]):
    """``name=low:high`` with whole numbers, or ``name=size`` for one."""

    name = "NAME=LOW:HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, int]]:
        """Read one text; click asks with what was read already, too."""
        if isinstance(value, tuple):
            return value
        found = _RANGE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"'{value}' cannot be read; wanted the form 'batch=1:64'", param, ctx)
        low = int(found["low"])
        return found["name"], (low, int(found["high"] or low))


class ValuesType(click.ParamType[tuple[str, tuple[float, float]]]):
    """``name=low:high`` with decimals; whole numbers are read as such, so none is rounded."""

    name = "NAME=LOW:HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[float, float]]:
        """Read one text; click asks with what was read already, too."""
        if isinstance(value, tuple):
            return value
        found = _VALUES.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"'{value}' cannot be read; wanted the form 'x=-0.5:0.5'", param, ctx)
        low = _number(found["low"])
        return found["name"], (low, _number(found["high"]) if found["high"] else low)


class SizeType(click.ParamType[int]):
    """Bytes, as a number or with a unit: ``64KB``, ``1GB``; a thousand of one is the next."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read one text; click asks with what was read already, too."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"'{value}' cannot be read; wanted the form '500MB'", param, ctx)
        size = float(found["number"]) * _UNITS[found["unit"].upper()]
        if not isfinite(size):
            self.fail(f"'{value}' is larger than any file", param, ctx)
        return round(size)


def _number(text: str) -> float:
    """Infinite where it is beyond every number of 64 bits; a whole one is exact else."""
    number = float(text)
    return int(text) if isfinite(number) and text.lstrip("-").isdigit() else number


def source_options(command: Command) -> Command:
    """``MODEL`` and what describes it."""
    for option in reversed(
        (
            click.argument("model"),
            click.option(
                "--weights", type=FILE,
                help=".safetensors or .pt of tensors; DEFAULT for torchvision's published ones.",
            ),
            click.option(
                "--input", "inputs", multiple=True, metavar="NAME:DTYPE[AXES]",
                help="'x:float32[batch,3,32,32]': names are free axes. Repeat for each input.",
            ),
            click.option(
                "--range", "ranges", multiple=True, type=RangeType(),
                help="Sizes of a free axis: 'batch=1:64'. Repeat for each axis.",
            ),
            click.option(
                "--values", multiple=True, type=ValuesType(),
                help="Values of an input: 'tokens=0:32000', 'x=-0.5:0.5'; upper end excluded.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def specs_from_options(texts: tuple[str, ...]) -> tuple[TensorSpec, ...]:
    """Read all ``--input`` texts.

    Raises:
        InvalidInput: One of them has another form.
    """
    return tuple(spec_from_text(text) for text in texts)
