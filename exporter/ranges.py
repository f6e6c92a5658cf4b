"""Sizes of free axes and bounds of values: what was declared, and what holds elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

Range = tuple[int, int]
"""Smallest and largest size."""

Bounds = tuple[float, float]
"""Least and greatest value of an input, the upper end excluded."""

DEFAULT_RANGE: Range = (1, 64)
"""Of a free axis that has no ``--range``."""


def range_of(axis: str, ranges: Mapping[str, Range]) -> Range:
    """The declared sizes of an axis, or the default."""
    return ranges.get(axis, DEFAULT_RANGE)
