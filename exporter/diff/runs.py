"""Two artifacts on the same inputs: how far they are apart, and how long each takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from exporter.diff.record import OutputNumbers, Speed
from exporter.diff.side import Side
from runtime.backends.base import Backend
from runtime.draws import Draw
from runtime.manifest import Manifest
from runtime.tensors import Array, TensorSpec

Inputs = Mapping[str, Array]
SPEED_BUDGET_S = 3.0
_FREE_AXIS = 2
"""Size of an axis that nothing is known of."""
_ROWS = 16
_MOST_CALLS = 200
_WARM_UP = 3


def inputs_for(a: Side, b: Side, backend: Backend) -> tuple[list[Inputs], str]:
    """The evidence of one side, or drawn inputs; and which they are.

    Args:
        a: One side; its evidence goes first.
        b: The other.
        backend: One of them, loaded, for the inputs that are to be drawn.
    """
    for side in (a, b):
        golden = side.golden()
        if golden is not None:
            calls = [case.arrays() for case in golden.cases if not case.extreme]
            if calls:
                rows = sum(len(next(iter(call.values()), ())) for call in calls)
                shown = f"{rows} rows" if golden.batchable else f"{len(calls)} calls"
                return list(calls), f"the evidence of {side.name}, {shown}"
    specs = list(backend.inputs.values())
    sizes = _sizes(specs, a.manifest or b.manifest)
    arrays = {spec.name: _drawn(spec, sizes, seed) for seed, spec in enumerate(specs)}
    return [arrays], "inputs drawn with seed 0"


def _sizes(specs: Sequence[TensorSpec], manifest: Manifest | None) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for spec in specs:
        for position, axis in enumerate(spec.shape):
            if isinstance(axis, str):
                low, high = manifest.ranges.get(axis, (1, _ROWS)) if manifest else (1, _ROWS)
                wanted = _ROWS if position == 0 else _FREE_AXIS
                sizes[axis] = min(max(wanted, low), high)
    return sizes


def _drawn(spec: TensorSpec, sizes: Mapping[str, int], seed: int) -> Array:
    shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
    if spec.dtype.startswith("float"):
        return Draw("normal", seed, shape, spec.dtype).array()
    return Draw("integers", seed, shape, spec.dtype, 0, 2).array()


def output_numbers(
    a: Backend, b: Backend, calls: Sequence[Inputs], classes: Collection[int] | None = None
) -> tuple[OutputNumbers, ...]:
    """Each output that both have, over all calls.

    Args:
        a: One side.
        b: The other.
        calls: Inputs for both.
        classes: How many values an output has whose largest one is a label; where nobody
            knows (none), any with rows of numbers may be one.

    Raises:
        TwinportError: One of them refuses an input.
    """
    answers = [(a.infer(call), b.infer(call)) for call in calls]
    found = []
    for name in dict.fromkeys((*a.outputs, *b.outputs)):
        if name not in a.outputs or name not in b.outputs:
            side = "first" if name in a.outputs else "second"
            found.append(OutputNumbers(name, 0, 0, 0, 0, None, 0, f"only the {side} has it"))
            continue
        pairs = [(one[name], other[name]) for one, other in answers]
        found.append(_numbers(name, pairs, classes))
    return tuple(found)


def _numbers(
    name: str, pairs: Sequence[tuple[Array, Array]], classes: Collection[int] | None
) -> OutputNumbers:
    wrong = next(((x.shape, y.shape) for x, y in pairs if x.shape != y.shape), None)
    if wrong:
        note = f"shape {list(wrong[0])} and {list(wrong[1])}"
        return OutputNumbers(name, 0, 0, 0, 0, None, 0, note)
    if any(array.dtype.kind in "OSU" for pair in pairs for array in pair):
        elements = sum(x.size for x, _ in pairs)
        differing = sum(int(np.count_nonzero(x != y)) for x, y in pairs)
        return OutputNumbers(name, elements, 0, 0, 0, None, differing / max(elements, 1))
    elements = differing = 0
    squares = own = largest = 0.0
    for one, other in pairs:
        x, y = one.astype(np.float64), other.astype(np.float64)
        same = (x == y) | (np.isnan(x) & np.isnan(y))
        elements, differing = elements + x.size, differing + int(np.count_nonzero(~same))
        with np.errstate(invalid="ignore"):
            moved = np.where(same, 0.0, np.abs(y - x))
        squares, own = squares + float(np.square(moved).sum()), own + float(np.square(x).sum())
        largest = max(largest, float(moved.max(initial=0.0)))
    rms, size = (squares / max(elements, 1)) ** 0.5, (own / max(elements, 1)) ** 0.5
    return OutputNumbers(
        name, elements, rms, rms / size if size else float(rms > 0), largest,
        _labels(pairs, classes), differing / max(elements, 1),
    )  # fmt: skip


def _labels(pairs: Sequence[tuple[Array, Array]], classes: Collection[int] | None) -> float | None:
    """Share of ``[rows, classes]`` whose largest value is at the same place."""
    if classes is not None and not all(x.shape[1:] in [(n,) for n in classes] for x, _ in pairs):
        return None
    if not all(x.ndim == 2 and x.shape[1] > 1 and x.dtype.kind == "f" for x, _ in pairs):
        return None
    same = [np.argmax(x, -1) == np.argmax(y, -1) for x, y in pairs]
    rows = sum(item.size for item in same)
    return sum(int(item.sum()) for item in same) / rows if rows else None


def measured_speed(a: Backend, b: Backend, call: Inputs, budget_s: float = SPEED_BUDGET_S) -> Speed:
    """Median of calls in turns, so that a noisy neighbour hits both."""
    sides = (a, b)
    for _ in range(_WARM_UP):
        for side in sides:
            side.infer(call)
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + budget_s
    while len(times[0]) < _MOST_CALLS and (time.perf_counter() < until or not times[0]):
        for side, taken in zip(sides, times, strict=True):
            started = time.perf_counter()
            side.infer(call)
            taken.append((time.perf_counter() - started) * 1e3)
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in call.items())
    medians = [statistics.median(taken) for taken in times]
    return Speed(medians[0], medians[1], len(times[0]), shapes)
