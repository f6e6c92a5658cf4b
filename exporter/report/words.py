"""Numbers and texts as the page says them."""

from __future__ import annotations

import math
import re
from pathlib import Path

from runtime.proof_records import Judgement
from runtime.tensors import TensorSpec

NOTHING = "\N{EN DASH}"
_FOLDERS = re.compile(r"(?<![\w.:/])(?:/[^\s/:'\"]+)+/(?=[^\s/])")
_HASH = re.compile(r"[0-9a-f]{64}")


def without_folders(text: str, folder: Path) -> str:
    """A text in which files are named and their places on this machine are not.

    Args:
        text: Of an error.
        folder: That of the version; its parts may hold what ends a path elsewhere.
    """
    for place in (folder, *folder.parents[:2]):
        text = re.sub(rf"{re.escape(str(place))}/(?:[^\s/:'\"]+/)*", "", text)
    return _FOLDERS.sub("", text)


def printable(text: str, longest: int = 28) -> str:
    """A name as a label of a drawing: no control characters, cut where it is long."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits, thousands whole; a dash where there is no number."""
    if value is None:
        return NOTHING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "infinite" if value > 0 else "\N{MINUS SIGN}infinite"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(share: float, digits: int = 2) -> str:
    """``99.62 %``."""
    return f"{100 * share:.{digits}f} %"


def file_size(count: int) -> str:
    """``252,615 bytes (247 KiB)``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count:,} bytes ({count / size:.3g} {unit})"
    return f"{count:,} bytes"


def shape(sizes: tuple[int | str, ...]) -> str:
    """``[batch, 1, 32, 32]``; a question mark where the size is known at run time only."""
    return "[" + ", ".join("?" if size == -1 else str(size) for size in sizes) + "]"


def tensor(spec: TensorSpec) -> str:
    """``float32 [batch, 10]``."""
    return f"{spec.dtype} {shape(spec.shape)}"


def rms(item: Judgement) -> str:
    """The pooled error in units of float32's own; the share that differs for integers."""
    if item.rms_scale is None and item.max_scale is None:
        differing = item.rms_error
        return NOTHING if differing is None else f"{number(100 * differing)} % differ"
    return _factor(item.rms_factor, item.rms_scale)


def largest(item: Judgement) -> str:
    """The largest error in units of float32's own."""
    return _factor(item.max_factor, item.max_scale)


def relative(item: Judgement) -> str:
    """The pooled error in units of the truth."""
    return NOTHING if item.relative_rms is None else f"{item.relative_rms:.1e}"


def at_most(limit: float | None, form: str = "g") -> str:
    """The tolerance of a number; empty where it is shown and not judged."""
    return "" if limit is None else f"max {limit:{form}}"


def _factor(factor: float | None, scale: float | None) -> str:
    if scale is None:
        return NOTHING
    return "infinite" if factor is None else number(factor)
