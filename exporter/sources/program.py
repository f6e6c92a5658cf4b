"""A program that ``torch.export.save`` wrote: its graph is taken as it is."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn

from exporter.ranges import DEFAULT_RANGE, Range
from exporter.said import first_line
from exporter.sources.made import Made
from exporter.sources.state_file import weights_only
from exporter.weights import file_sha256
from runtime.errors import ExportError, InvalidInput, NotFound
from runtime.tensors import TensorSpec

SUFFIX = ".pt2"
_UNBOUNDED = 2**31
_DTYPES = {getattr(torch, name): name for name in (
    "bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
)}  # fmt: skip
_TRAINING = {"dropout": 2, "feature_dropout": 2, "alpha_dropout": 2, "batch_norm": 5}
"""Operators that work otherwise in training, and the argument that says so."""


class Program(nn.Module):
    """A saved program behind a forward that takes its inputs by name.

    Attributes:
        program: The graph as a module; it knows no training and no evaluation.
        made_of: Class of the module that was exported, by its full name.
    """

    def __init__(
        self, program: torch.export.ExportedProgram, positional: Sequence[str], named: Sequence[str]
    ) -> None:
        super().__init__()
        self.program = program.module()
        self.made_of = _class_of(program)
        self._positional = tuple(positional)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        self._signature = inspect.Signature(
            [inspect.Parameter(name, kind) for name in (*positional, *named)]
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the program as it was exported."""
        given = self._signature.bind(*args, **kwargs).arguments
        first = [given.pop(name) for name in self._positional]
        return self.program(*first, **given)

    def train(self, _mode: bool = True) -> Program:
        """A program stays what it was exported as."""
        return self


def _class_of(program: torch.export.ExportedProgram) -> str:
    stacks = (node.meta.get("nn_module_stack") for node in program.graph.nodes)
    root = next((next(iter(stack.values())) for stack in stacks if stack), ("", "torch.nn.Module"))
    return str(root[1])


def signature_of(module: nn.Module) -> inspect.Signature:
    """Of a module's forward; a program's own, which its code cannot show."""
    if isinstance(module, Program):
        return module._signature
    return inspect.signature(module.forward)


def made_from_program(
    path: Path,
    weights: Path | None,
    inputs: Sequence[TensorSpec] = (),
    ranges: Mapping[str, Range] | None = None,
) -> Made:
    """Read a ``.pt2`` file.

    Args:
        path: The file.
        weights: Must be none: a program brings its own.
        inputs: The user's description, which may name the free axes otherwise.
        ranges: The user's, within those of the program.

    Raises:
        NotFound: There is no such file.
        ExportError: It is no program, was exported for training or on a GPU that is not
            here, or takes more than tensors.
        InvalidInput: The description is of other inputs.
    """
    if weights is not None:
        raise InvalidInput(f"{path.name} brings its own weights; leave out --weights")
    program = _read(path)
    _check_evaluation(program, path.name)
    positional, named = _arguments(program, path.name)
    own, free = _inputs(program, [*positional, *named], path.name)
    renamed = _renamed(own, inputs, path.name)
    names = {
        str(before): str(after)
        for spec, other in zip(own, renamed, strict=True)
        for before, after in zip(spec.shape, other.shape, strict=True)
        if isinstance(before, str)
    }
    known = {names[axis]: size for axis, size in free.items()}
    _check_ranges(known, ranges or {}, path.name)
    return Made(
        name=path.stem,
        factory=path.name,
        module=Program(program, positional, named),
        inputs=tuple(renamed),
        ranges=known,
        checkpoint_sha256=file_sha256(path),
        program=program,
    )


def _read(path: Path) -> torch.export.ExportedProgram:
    if not path.is_file():
        raise NotFound(f"{path} does not exist; give a file of torch.export.save")
    try:
        _refuse_objects(path)
        with warnings.catch_warnings(), weights_only():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
    except (BadZipFile, OSError) as error:
        raise ExportError(f"{path.name} is no file of torch.export.save: {error}") from error
    except ExportError:
        raise
    except Exception as error:
        cure = "export it again with this version of torch"
        if "CUDA" in str(error):
            cure = "it was exported on a GPU; export it on the CPU"
        elif "weights_only" in str(error) or "Weights only" in str(error):
            cure = "it holds a pickle that would run code; export a module of plain tensors"
        raise ExportError(f"{path.name} cannot be read ({first_line(error)}); {cure}") from error
    return program


def _refuse_objects(path: Path) -> None:
    """Objects of the user's classes lie in the archive as pickles of their own."""
    with ZipFile(path) as archive:
        objects = [name for name in archive.namelist() if "custom_obj" in name]
    if objects:
        raise ExportError(
            f"{path.name} was not read: it holds objects of classes of its own ({objects[0]}), "
            "which would run code; export a module of plain tensors"
        )


def _check_evaluation(program: torch.export.ExportedProgram, shown: str) -> None:
    for node in program.graph.nodes:
        name = str(node.target).removeprefix("aten.").removesuffix(".default")
        place = _TRAINING.get(name)
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise ExportError(
                f"{shown} was exported in train mode ({name} in it changes answers by chance or "
                "by the batch); call .eval() before torch.export.export"
            )


def _arguments(program: torch.export.ExportedProgram, shown: str) -> tuple[list[str], list[str]]:
    """Names of the positional arguments and of the named ones."""
    names = list(program.graph_signature.user_inputs)
    positional, named = program.call_spec.in_spec.children()
    leaves = (*positional.children(), *named.children())
    if not all(leaf.is_leaf() for leaf in leaves) or not all(isinstance(n, str) for n in names):
        raise ExportError(
            f"{shown} takes more than tensors (a list, a dict or a number); export a module "
            "whose forward takes tensors only"
        )
    count = len(positional.children())
    return [str(name) for name in names[:count]], [str(key) for key in named.context or ()]


def _inputs(
    program: torch.export.ExportedProgram, names: Sequence[str], shown: str
) -> tuple[list[TensorSpec], dict[str, Range]]:
    """Inputs as the program has them, and the ranges of the free axes by name."""
    values = [
        node.meta["val"]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    axes: dict[str, str] = {}
    ranges: dict[str, Range] = {}
    specs: list[TensorSpec] = []
    for name, value in zip(names, values, strict=True):
        shape: list[int | str] = []
        for place, size in enumerate(value.shape):
            if isinstance(size, int):
                shape.append(size)
                continue
            symbol = size.node.expr
            if not symbol.is_symbol:
                raise ExportError(
                    f"axis {place} of input '{name}' in {shown} is {symbol}, computed from "
                    "another axis; export it with that axis fixed"
                )
            axis = "batch" if place == 0 and not axes else f"{name}_axis_{place}"
            axis = axes.setdefault(str(symbol), axis)
            ranges[axis] = _range(program.range_constraints.get(symbol))
            shape.append(axis)
        specs.append(TensorSpec(name, _DTYPES[value.dtype], tuple(shape)))
    return specs, ranges


def _range(bounds: Any) -> Range:
    if bounds is None:
        return DEFAULT_RANGE
    low = max(1, int(bounds.lower))
    open_end = not bounds.upper.is_finite or int(bounds.upper) >= _UNBOUNDED
    return low, max(low, DEFAULT_RANGE[1]) if open_end else int(bounds.upper)


def _renamed(
    own: Sequence[TensorSpec], given: Sequence[TensorSpec], shown: str
) -> Sequence[TensorSpec]:
    """The user's names for the free axes, where everything else is as the program has it."""
    if not given:
        return own
    by_name = {spec.name: spec for spec in given}
    renamed = [by_name.get(spec.name, spec) for spec in own]
    wanted = ", ".join(f"{spec.name}:{spec}" for spec in own)
    alike = len(by_name) == len(own) and all(
        spec.dtype == other.dtype
        and len(spec.shape) == len(other.shape)
        and all(isinstance(b, str) if isinstance(a, str) else a == b
                for a, b in zip(spec.shape, other.shape, strict=True))
        for spec, other in zip(own, renamed, strict=True)
    )  # fmt: skip
    pairs = {
        (a, b)
        for spec, other in zip(own, renamed, strict=True)
        for a, b in zip(spec.shape, other.shape, strict=False)
        if isinstance(a, str)
    }
    if not alike or len(pairs) != len({a for a, _ in pairs}):
        raise InvalidInput(
            f"{shown} takes {wanted}; --input may give its free axes other names, no more"
        )
    return [replace(spec, shape=other.shape) for spec, other in zip(own, renamed, strict=True)]


def _check_ranges(own: Mapping[str, Range], given: Mapping[str, Range], shown: str) -> None:
    for axis, (low, high) in given.items():
        if axis in own and not (own[axis][0] <= low < high <= own[axis][1]):
            least, most = own[axis]
            raise InvalidInput(
                f"--range {axis}={low}:{high} is not within {shown}, where '{axis}' is free from "
                f"{least} to {most}; export it again for other sizes"
            )
