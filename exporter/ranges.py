"""Sizes of free axes: what was declared, and what holds where nothing was."""

from __future__ import annotations

from collections.abc import Mapping

Range = tuple[int, int]
"""Smallest and largest size."""

DEFAULT_RANGE: Range = (1, 64)
"""Of a free axis that has no ``--range``."""


def range_of(axis: str, ranges: Mapping[str, Range]) -> Range:
    """The declared sizes of an axis, or the default."""
    return ranges.get(axis, DEFAULT_RANGE)
