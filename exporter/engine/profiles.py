"""Optimisation profiles: the sizes of the free axes that an engine takes and is tuned for.

The library takes impossible and forgotten sizes without complaint, so they are checked here.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from exporter.ranges import Range
from runtime.errors import InvalidInput, UsageProblem
from runtime.manifest import ProfileShape
from runtime.tensors import Axis, TensorSpec

FORM = "batch=1,8,64"
_ENTRY = re.compile(r"(?P<axis>[^=\s]+)\s*=\s*(?P<sizes>\d+\s*,\s*\d+\s*,\s*\d+)")
_BETWEEN = re.compile(r"\s*;\s*|\s+(?=[^=\s,;]+\s*=)")


@dataclass(frozen=True)
class Sizes:
    """Of one free axis in one profile."""

    smallest: int
    optimal: int
    """What the builder tunes for."""
    largest: int

    def __post_init__(self) -> None:
        """Refuse what is in no order."""
        if not 1 <= self.smallest <= self.optimal <= self.largest:
            raise InvalidInput(
                f"sizes {self.smallest},{self.optimal},{self.largest} are in no order; wanted "
                "smallest, optimal, largest, each at least the one before and from 1 up"
            )


Profile: TypeAlias = Mapping[str, Sizes]
"""Sizes by the name of the axis."""


def profile_from_text(text: str) -> Profile:
    """Read ``batch=1,8,64`` or, with several axes, ``batch=1,8,64;seq=16,128,512``.

    Raises:
        UsageProblem: The text has another form, or names an axis twice.
        InvalidInput: The sizes of an axis are in no order.
    """
    profile: dict[str, Sizes] = {}
    for part in _BETWEEN.split(text.strip()):
        found = _ENTRY.fullmatch(part.strip())
        if found is None:
            raise UsageProblem(
                f"profile '{text}' cannot be read; wanted the form '{FORM}', "
                "smallest, optimal and largest size of each free axis, axes parted by ';'"
            )
        axis = found["axis"]
        if axis in profile:
            raise UsageProblem(f"profile '{text}' names the axis '{axis}' twice; name it once")
        try:
            profile[axis] = Sizes(*map(int, found["sizes"].split(",")))
        except InvalidInput as error:
            raise InvalidInput(f"profile '{text}', axis '{axis}': {error}") from error
    return profile


def default_profile(ranges: Mapping[str, Range]) -> Profile:
    """All declared sizes, tuned for their geometric middle (8 of 1 to 64)."""
    return {
        axis: Sizes(low, round(math.sqrt(low * high)), high) for axis, (low, high) in ranges.items()
    }


def checked_profiles(
    given: Sequence[Profile], inputs: Sequence[TensorSpec], ranges: Mapping[str, Range]
) -> tuple[Profile, ...]:
    """The profiles of a build; none where no axis is free, the default where none is given.

    Args:
        given: What the user wants.
        inputs: Of the model.
        ranges: Declared sizes of every free axis.

    Raises:
        InvalidInput: An axis that is not free, a forgotten one, sizes beyond those that were
            declared, or sizes between the profiles that none of them takes.
    """
    if not ranges:
        if given:
            raise InvalidInput(f"{_unknown(next(iter(given[0])), inputs)}; leave --profile out")
        return ()
    for profile in given:
        for axis, sizes in profile.items():
            _check_axis(axis, sizes, inputs, ranges)
        for axis in ranges:
            if axis not in profile:
                raise InvalidInput(
                    f"the profile {text_of(profile)} says nothing of the free axis '{axis}'; "
                    f"add '{axis}=SMALLEST,OPTIMAL,LARGEST'"
                )
    profiles = tuple(given) or (default_profile(ranges),)
    _check_no_gap(profiles)
    return profiles


def _check_axis(
    axis: str, sizes: Sizes, inputs: Sequence[TensorSpec], ranges: Mapping[str, Range]
) -> None:
    if axis not in ranges:
        raise InvalidInput(f"{_unknown(axis, inputs)}; the free axes are {', '.join(ranges)}")
    low, high = ranges[axis]
    if sizes.smallest < low or sizes.largest > high:
        raise InvalidInput(
            f"the profile asks for {axis} {sizes.smallest} to {sizes.largest}; the model was "
            f"exported and proved for {low} to {high}: export it with a wider --range"
        )


def _unknown(axis: str, inputs: Sequence[TensorSpec]) -> str:
    specs = ", ".join(f"{spec.name} {spec}" for spec in inputs)
    return f"--profile names '{axis}', which is no free axis of {specs}"


def _check_no_gap(profiles: Sequence[Profile]) -> None:
    """Every size between the smallest and the largest is taken by some profile."""
    axes = list(profiles[0])
    edges = [
        sorted({edge for p in profiles for edge in (p[axis].smallest, p[axis].largest + 1)})
        for axis in axes
    ]
    for cell in itertools.product(*(itertools.pairwise(column) for column in edges)):
        if not any(_takes(profile, axes, cell) for profile in profiles):
            sizes = ", ".join(
                f"{axis} {low}" if after - 1 == low else f"{axis} {low} to {after - 1}"
                for axis, (low, after) in zip(axes, cell, strict=True)
            )
            raise InvalidInput(f"no profile takes {sizes}; let them meet")


def _takes(profile: Profile, axes: Sequence[str], cell: Sequence[tuple[int, int]]) -> bool:
    return all(
        profile[axis].smallest <= low and after - 1 <= profile[axis].largest
        for axis, (low, after) in zip(axes, cell, strict=True)
    )


def covered_ranges(profiles: Sequence[Profile]) -> dict[str, Range]:
    """Smallest and largest size of each axis over all profiles."""
    axes = profiles[0] if profiles else ()
    return {
        axis: (min(p[axis].smallest for p in profiles), max(p[axis].largest for p in profiles))
        for axis in axes
    }


def profile_shapes(profile: Profile, inputs: Iterable[TensorSpec]) -> tuple[ProfileShape, ...]:
    """The profile as shapes of each input with a free axis."""
    return tuple(
        ProfileShape(
            spec.name,
            _shape(spec.shape, {axis: sizes.smallest for axis, sizes in profile.items()}),
            _shape(spec.shape, {axis: sizes.optimal for axis, sizes in profile.items()}),
            _shape(spec.shape, {axis: sizes.largest for axis, sizes in profile.items()}),
        )
        for spec in inputs
        if any(isinstance(axis, str) for axis in spec.shape)
    )


def _shape(shape: Sequence[Axis], sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in shape)


def text_of(profile: Profile) -> str:
    """``batch=1,8,64;seq=16,128,512``."""
    return ";".join(
        f"{axis}={sizes.smallest},{sizes.optimal},{sizes.largest}"
        for axis, sizes in profile.items()
    )
