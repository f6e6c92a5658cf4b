"""A trace of expert load: window after window of counts, and the file it is kept in.

The file is NumPy's ``.npz`` (no pickles) with these arrays::

    counts      integers [windows, layers, experts]: tokens that an expert computed
    together    optional, [layers, experts, experts]: requests in which both were called
    top_k       optional, one integer: experts that a token is sent to
    name        optional, text
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.array_files import load_arrays
from runtime.errors import InvalidInput, NotFound, PlacementError
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.predict import check_counts
from runtime.layout import check_target, write_atomically

MOST_COUNTS = 50_000_000
"""Windows times layers times experts of a trace: 400 MB."""

_MOST_TOKENS = 2**53  # so that no sum overflows, and each is exact as a float
_LONGEST_NAME = 300


@dataclass(frozen=True)
class Trace:
    """What was called, window after window.

    Attributes:
        counts: ``[windows, layers, experts]`` tokens.
        name: For tables and pictures.
        together: ``[layers, experts, experts]`` requests in which both were called; None
            where nobody counted.
        top_k: Experts that a token is sent to.

    Raises:
        PlacementError: Counts are of another form, negative, of more tokens than can be
            summed, or of one window only; ``top_k`` is above the number of experts; the name
            is no line of 300 characters.
    """

    counts: IntArray
    name: str = "trace"
    together: FloatArray | None = None
    top_k: int = 1

    def __post_init__(self) -> None:
        check_counts(self.counts)
        if len(self.counts) < 2:
            raise PlacementError("the trace has one window; one to place on and one to score on")
        if self.counts.sum(dtype=float) > _MOST_TOKENS:
            raise PlacementError(f"the counts sum to more than {_MOST_TOKENS:,} tokens")
        if len(self.name) > _LONGEST_NAME or not self.name.isprintable():
            raise PlacementError(
                f"the name of the trace has {len(self.name):,} characters or is no line of text; "
                f"give {_LONGEST_NAME} printable ones at most"
            )
        _, layers, experts = self.counts.shape
        check_top_k(self.top_k, experts)
        if self.together is not None and self.together.shape != (layers, experts, experts):
            raise PlacementError(
                f"together has shape {list(self.together.shape)}; "
                f"wanted {[layers, experts, experts]}"
            )


def check_size(windows: int, layers: int, experts: int) -> None:
    """Refuse a trace that is too large to be held.

    Raises:
        PlacementError: It is.
    """
    if windows * layers * experts > MOST_COUNTS:
        raise PlacementError(
            f"{windows} windows of {layers} layers of {experts} experts are more than "
            f"{MOST_COUNTS:,} counts; ask for fewer"
        )


def check_top_k(top_k: int, experts: int) -> None:
    """Refuse what no gate can do.

    Raises:
        PlacementError: A token is sent to no expert, or to more than there are.
    """
    if not 1 <= top_k <= experts:
        raise PlacementError(
            f"top_k is {top_k}; a token is sent to 1 expert or more, and there are {experts}"
        )


def check_trace_file(path: Path) -> None:
    """Refuse a file that no trace can be written to; see ``check_target``."""
    check_target(path, "trace", (".npz",))


def write_trace(path: Path, trace: Trace) -> None:
    """Write the file whole or not at all; its name must end in ``.npz``.

    Raises:
        InvalidInput: As ``check_trace_file``, or the file cannot be written; what was there
            before is as it was.
    """
    check_trace_file(path)
    arrays: dict[str, Any] = {
        "counts": trace.counts, "top_k": np.int64(trace.top_k), "name": np.array(trace.name),
    }  # fmt: skip
    if trace.together is not None:
        arrays["together"] = trace.together
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    try:
        write_atomically(path, data.getvalue())
    except OSError as error:
        reason = error.strerror or error
        raise InvalidInput(f"the trace {path} cannot be written: {reason}") from error


def read_trace(path: Path) -> Trace:
    """Read a file as ``write_trace`` makes it.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It is no such file, or its arrays are not as they must be.
    """
    if not path.is_file():
        raise NotFound(f"there is no trace {path}")
    arrays = load_arrays(path)
    if not isinstance(arrays, Mapping):
        raise InvalidInput(f"{path} holds one array; wanted an .npz file with counts")
    counts = arrays.get("counts")
    if counts is None or counts.ndim != 3 or counts.dtype.kind not in "iu":
        found = "nothing" if counts is None else f"{counts.dtype} {list(counts.shape)}"
        raise InvalidInput(f"{path}: counts is {found}; wanted integers [windows, layers, experts]")
    together = arrays.get("together")
    if together is not None and not (
        together.dtype.kind in "fiub" and np.all((together >= 0) & (together <= _MOST_TOKENS))
    ):
        raise InvalidInput(
            f"{path}: together is no count of requests; wanted 0 to {_MOST_TOKENS:,}"
        )
    check_size(*counts.shape)
    if counts.dtype == np.uint64:  # what would turn negative stays too large
        counts = np.minimum(counts, np.iinfo(np.int64).max)
    return Trace(
        counts.astype(np.int64),
        str(arrays.get("name", path.stem)),
        None if together is None else together.astype(float),
        _whole(arrays, "top_k", path),
    )


def _whole(arrays: Mapping[str, Any], name: str, path: Path) -> int:
    value = arrays.get(name, np.int64(1))
    if value.ndim or value.dtype.kind not in "iu":
        found = f"{value.dtype} {list(value.shape)}"
        raise InvalidInput(f"{path}: {name} is {found}; wanted an integer")
    return int(value)


def trace_from_answers(
    loads: Iterable[IntArray], requests_a_window: int, name: str, top_k: int = 1
) -> Trace:
    """Cut the routing of requests, one after the other, into windows.

    Args:
        loads: ``expert_load`` of each answer, ``[batch, layers, experts]``.
        requests_a_window: Answers that make a window; a last part of one is left out.
        name: Of the trace.
        top_k: Experts that a token is sent to.

    Raises:
        PlacementError: There are fewer than two windows of answers.
    """
    per_request = [np.asarray(load, dtype=np.int64).sum(0) for load in loads]
    windows = len(per_request) // max(1, requests_a_window)
    if requests_a_window < 1 or windows < 2:
        raise PlacementError(
            f"{len(per_request)} answers make {windows} windows of {requests_a_window}; "
            "two windows or more are needed"
        )
    each = np.stack(per_request[: windows * requests_a_window])  # [requests, layers, experts]
    counts = each.reshape(windows, requests_a_window, *each.shape[1:]).sum(1)
    called = (each > 0).astype(float).transpose(1, 0, 2)  # [layers, requests, experts]
    return Trace(counts, name, called.transpose(0, 2, 1) @ called, top_k)
