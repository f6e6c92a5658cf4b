"""What a foreign exception says, in one line."""

from __future__ import annotations

_LONGEST = 300


def first_line(error: BaseException) -> str:
    """The class of an exception and the first line of its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:_LONGEST]}" if lines else type(error).__name__
