"""The user's words about inputs, free axes and values, held against the module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

import torch

from exporter.ranges import Bounds, Range
from exporter.sources.program import signature_of
from runtime.errors import InvalidInput
from runtime.tensors import TensorSpec


def inputs_in_order(
    module: torch.nn.Module, inputs: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    """The described inputs in the order of ``forward``'s parameters.

    Raises:
        InvalidInput: None described, one twice, one that ``forward`` does not take, or one
            missing that it needs.
    """
    parameters = list(signature_of(module).parameters.values())
    known = [item.name for item in parameters if item.kind not in (item.VAR_POSITIONAL,)]
    wanted = f"forward takes {', '.join(known) or 'nothing'}"
    if not inputs:
        raise InvalidInput(
            f"no input is described and {wanted}; "
            f"add --input '{known[0] if known else 'x'}:float32[batch,3,32,32]'"
        )
    given = {spec.name: spec for spec in inputs}
    if len(given) < len(inputs):
        raise InvalidInput("an input is described twice; describe each once")
    anything = any(item.kind is item.VAR_KEYWORD for item in parameters)
    for name in given:
        if name not in known and not anything:
            raise InvalidInput(f"input '{name}' is described, but {wanted}")
    for item in parameters:
        needed = item.default is item.empty and item.kind in (
            item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY,
        )  # fmt: skip
        if needed and item.name not in given:
            raise InvalidInput(
                f"input '{item.name}' of forward is not described; "
                f"add --input '{item.name}:float32[batch,...]'"
            )
    ordered = [name for name in known if name in given]
    rest = [name for name in given if name not in ordered]
    return tuple(given[name] for name in ordered + rest)


def fixed_axes(inputs: Sequence[TensorSpec], ranges: Mapping[str, Range]) -> tuple[TensorSpec, ...]:
    """The inputs with a number for each axis whose range has one size only."""
    sizes = {axis: low for axis, (low, high) in ranges.items() if low == high}
    return tuple(
        replace(spec, shape=tuple(sizes.get(str(axis), axis) for axis in spec.shape))
        for spec in inputs
    )


def free_ranges(ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges of more than one size."""
    return {axis: (low, high) for axis, (low, high) in ranges.items() if low < high}


def check_words(
    inputs: Sequence[TensorSpec], ranges: Mapping[str, Range], values: Mapping[str, Bounds]
) -> None:
    """Refuse ranges and values of what is not there, and empty ones.

    Raises:
        InvalidInput: The text says what was given and what is there.
    """
    axes = {axis for spec in inputs for axis in spec.shape if isinstance(axis, str)}
    free = ", ".join(sorted(axes)) or "(none)"
    for name, (low, high) in ranges.items():
        if name not in axes:
            raise InvalidInput(f"--range names the axis '{name}'; the free axes are {free}")
        if not (0 <= low <= high and high):
            raise InvalidInput(f"--range {name}={low}:{high} is empty; wanted 0 <= low <= high")
    dtypes = {spec.name: spec.dtype for spec in inputs}
    for name, bounds in values.items():
        if name not in dtypes:
            raise InvalidInput(f"--values names the input '{name}', which is not described")
        _check_values(name, dtypes[name], bounds)


def _check_values(name: str, dtype: str, bounds: Bounds) -> None:
    low, high = bounds
    given = f"--values {name}={low}:{high}"
    if not (isfinite(low) and isfinite(high)):
        raise InvalidInput(f"{given}: wanted finite numbers")
    if not low < high:
        raise InvalidInput(f"{given} is empty; wanted low < high")
    if not dtype.startswith("float") and (int(low) != low or int(high) != high):
        raise InvalidInput(f"{given}: '{name}' is {dtype}; wanted whole numbers")
