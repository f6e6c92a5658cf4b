"""A trace of expert load: window after window of counts, and the file it is kept in.

The file is NumPy's ``.npz`` (no pickles) with these arrays::

    counts      integers [windows, layers, experts]: tokens that an expert computed
    together    optional, [layers, experts, experts]: requests in which both were called
    top_k       optional, one integer: experts that a token is sent to
    name        optional, text
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.array_files import load_arrays
from runtime.errors import InvalidInput, NotFound, PlacementError
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.predict import check_counts


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
        PlacementError: Counts are of another form, negative, or of one window only.
    """

    counts: IntArray
    name: str = "trace"
    together: FloatArray | None = None
    top_k: int = 1

    def __post_init__(self) -> None:
        check_counts(self.counts)
        if len(self.counts) < 2:
            raise PlacementError("the trace has one window; one to place on and one to score on")
        if self.top_k < 1:
            raise PlacementError(f"top_k is {self.top_k}; a token is sent to 1 expert or more")
        _, layers, experts = self.counts.shape
        if self.together is not None and self.together.shape != (layers, experts, experts):
            raise PlacementError(
                f"together has shape {list(self.together.shape)}; "
                f"wanted {[layers, experts, experts]}"
            )


def write_trace(path: Path, trace: Trace) -> None:
    """Write the file; its name must end in ``.npz``.

    Raises:
        InvalidInput: Another ending.
    """
    if path.suffix != ".npz":
        raise InvalidInput(f"the trace {path} has another ending; wanted .npz")
    arrays: dict[str, Any] = {
        "counts": trace.counts, "top_k": np.int64(trace.top_k), "name": np.array(trace.name),
    }  # fmt: skip
    if trace.together is not None:
        arrays["together"] = trace.together
    np.savez_compressed(path, **arrays)


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
        together.dtype.kind in "fiub" and np.all(np.isfinite(together) & (together >= 0))
    ):
        raise InvalidInput(f"{path}: together is no count of requests; none may be negative")
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
