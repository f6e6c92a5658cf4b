"""Compare the answer to one request with the reference's; NumPy only.

A difference counts against the served version only where the reference itself determines
the answer. Whatever looks wrong is computed again on the reference with inputs moved by
``STEP``; what the reference's own answer moves by there, no two correct float32 programs
agree on. So near ties of experts and labels, norms over constant maps and whatever else a
client may send that amplifies rounding cannot make a sound version look broken, while a
fault is found: it is there whether inputs move or not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from runtime.manifest import LOAD_OUTPUT
from runtime.proof import EXTREME_LIMIT, is_load
from runtime.shadow.yardstick import Ground, Yardstick
from runtime.tensors import Array

BEYOND = 2.0
"""Times the largest value of the evidence's ordinary inputs that ordinary ones may have."""
STEP = 2.0**-20
"""Of an input's size: eight units in the last place of float32."""
PAIRS = 4
"""Directions of moving, each tried both ways; a near tie withstands all with 4e-5 chance."""

Arrays = Mapping[str, Array]
Infer = Callable[[Arrays], Mapping[str, Array]]


@dataclass(frozen=True)
class OutputDifference:
    """What one request adds to an output's account.

    Attributes:
        squares: Sum of the squared differences in units of the yardstick.
        elements: Values that were compared so.
        differing: Rows that differ where they must be equal: whole numbers, text, the
            pattern of NaN and infinity, the shape.
        rows: Rows that were compared.
    """

    squares: float = 0.0
    elements: int = 0
    differing: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Comparison:
    """What the comparison of one request found.

    Attributes:
        extreme: Whether its inputs are beyond the evidence's ordinary ones.
        differs: Whether an extreme request was answered otherwise than proofs allow.
        rows: Its samples.
        rerouted: Samples that other experts answered, without a near tie.
        near_ties: Samples that other experts answered, as with the reference moved.
        outputs: By name; empty where the request is extreme.
    """

    extreme: bool
    rows: int
    differs: bool = False
    rerouted: int = 0
    near_ties: int = 0
    outputs: Mapping[str, OutputDifference] = field(default_factory=dict)


@dataclass
class _Rows:
    """One output of one request, by row.

    Attributes:
        unequal: ``[rows]`` where what must be equal is not.
        determined: ``[rows]`` where the reference answers the same when it is moved.
        rms: ``[rows]`` of the difference over finite values.
        unit: ``[rows]`` the yardstick.
        finite: ``[rows]`` values that were compared.
    """

    unequal: Array
    determined: Array
    rms: Array
    unit: Array
    finite: Array

    @property
    def wrong(self) -> Array:
        """``[rows]`` where nothing explains the inequality."""
        return self.unequal & self.determined


def compare(
    inputs: Arrays, answers: Arrays, reference: Infer, ground: Ground, draws: np.random.Generator
) -> Comparison:
    """Compare one answer with what the reference says to the same inputs.

    Args:
        inputs: Of the request.
        answers: What the served version gave; with the load of experts where it has one.
        reference: One call of the reference.
        ground: Yardsticks.
        draws: For the directions of moving.

    Raises:
        TwinportError: The reference refused the inputs.
    """
    right = reference(inputs)
    first = next(iter(inputs.values()), np.zeros(1))
    count = int(first.shape[0]) if ground.rows and first.ndim else 1
    if is_extreme(inputs, ground):
        return Comparison(True, count, differs=_differs_in_extremes(answers, right))
    with np.errstate(all="ignore"):  # what overflows here is infinitely far off
        found = {
            name: _compared(answers[name], right[name], ground.outputs.get(name), count)
            for name in answers
        }
        moved = _suspects(found, ground)
        if moved.any():
            _excuse(found, inputs, right, moved, reference, ground, draws)
        return _summary(found, count)


def is_extreme(inputs: Arrays, ground: Ground) -> bool:
    """Whether any value is not finite, or larger than the evidence vouches for."""
    for name, size in ground.inputs.items():
        # Written so that NaN is extreme; a signalling one warns when it is cast.
        with np.errstate(invalid="ignore"):
            largest = np.abs(inputs[name].astype(np.float64)).max(initial=0)
        if not largest <= BEYOND * size.largest:
            return True
    return False


def _differs_in_extremes(answers: Arrays, right: Arrays) -> bool:
    """By the rule for extreme inputs: equal patterns, and a relative RMS within the limit."""
    for name, answer in answers.items():
        other = right[name]
        if answer.shape != other.shape:
            return True
        if answer.dtype.kind != "f":
            if bool((answer != other).any()):
                return True
            continue
        ours, theirs = answer.astype(np.float64), other.astype(np.float64)
        if not _same_pattern(ours, theirs).all():
            return True
        finite = np.isfinite(ours) & np.isfinite(theirs)
        with np.errstate(all="ignore"):
            error = np.linalg.norm(ours[finite] - theirs[finite])
            if not error <= EXTREME_LIMIT * np.linalg.norm(theirs[finite]):
                return True
    return False


def _compared(answer: Array, right: Array, yardstick: Yardstick | None, count: int) -> _Rows:
    none, determined = np.zeros(count), np.ones(count, bool)
    if answer.shape != right.shape:
        return _Rows(np.ones(count, bool), determined, none, none, none)
    ours, theirs = answer.reshape(count, -1), right.reshape(count, -1)
    if answer.dtype.kind != "f":
        return _Rows(np.asarray((ours != theirs).any(1)), determined, none, none, none)
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    unequal = np.asarray(~_same_pattern(ours, theirs).all(1))
    if yardstick is None:
        return _Rows(unequal, determined, none, none, none)
    finite = np.isfinite(ours) & np.isfinite(theirs)
    size = _row_rms(theirs, np.isfinite(theirs))
    unit = np.maximum(yardstick.scale, yardstick.relative * size)
    return _Rows(unequal, determined, _row_rms(ours - theirs, finite), unit, finite.sum(1))


def _suspects(found: Mapping[str, _Rows], ground: Ground) -> Array:
    """``[rows]`` where something is to be explained."""
    suspects = [
        rows.unequal | ~(rows.rms <= _limit(ground, name) * rows.unit)
        for name, rows in found.items()
    ]
    return np.logical_or.reduce(suspects) if suspects else np.zeros(1, bool)


def _limit(ground: Ground, name: str) -> float:
    yardstick = ground.outputs.get(name)
    return yardstick.limit if yardstick else 0.0


def _excuse(
    found: Mapping[str, _Rows],
    inputs: Arrays,
    right: Arrays,
    suspects: Array,
    reference: Infer,
    ground: Ground,
    draws: np.random.Generator,
) -> None:
    """Widen units, and drop inequalities, where the reference moves as much by itself."""
    chosen = np.flatnonzero(suspects)
    asked = {name: array[chosen] for name, array in inputs.items()} if ground.rows else inputs
    before = {name: right[name][chosen] if ground.rows else right[name] for name in found}
    count = len(chosen)
    for _ in range(PAIRS):
        direction = {name: _direction(asked[name], ground, name, draws) for name in asked}
        for sign in (1, -1):
            after = reference(
                {name: _moved(array, sign * direction[name]) for name, array in asked.items()}
            )
            for name, rows in found.items():
                step = _compared(after[name], before[name], ground.outputs.get(name), count)
                rows.determined[chosen] &= ~step.unequal
                rows.unit[chosen] = np.maximum(rows.unit[chosen], step.rms)


def _direction(array: Array, ground: Ground, name: str, draws: np.random.Generator) -> Array:
    """By how much each value is moved; not at all where they are no fractions."""
    if array.dtype.kind != "f" or name not in ground.inputs:
        return np.zeros(())
    flat = array.astype(np.float64).reshape(len(array) if ground.rows else 1, -1)
    size = np.maximum(np.sqrt(np.square(flat).mean(1, keepdims=True)), ground.inputs[name].rms)
    step = max(STEP, float(np.finfo(array.dtype).eps))
    moves: Array = step * size * draws.standard_normal(flat.shape)
    return moves.reshape(array.shape)


def _moved(array: Array, by: Array) -> Array:
    return array if by.ndim == 0 and by == 0 else (array + by).astype(array.dtype)


def _summary(found: Mapping[str, _Rows], count: int) -> Comparison:
    load = found.get(LOAD_OUTPUT)
    # Rows that other experts answered say nothing about numbers, near tie or not.
    routed = ~load.unequal if load is not None else np.ones(count, bool)
    outputs: dict[str, OutputDifference] = {}
    for name, rows in found.items():
        if is_load(name):
            continue
        squares = np.where(rows.rms == 0, 0.0, np.square(rows.rms / rows.unit)) * rows.finite
        outputs[name] = OutputDifference(
            float(squares[routed].sum()),
            int(rows.finite[routed].sum()),
            int((rows.wrong & routed).sum()),
            int(routed.sum()),
        )
    if load is None:
        return Comparison(False, count, outputs=outputs)
    rerouted = int(load.wrong.sum())
    near_ties = int(load.unequal.sum()) - rerouted
    return Comparison(False, count, rerouted=rerouted, near_ties=near_ties, outputs=outputs)


def _same_pattern(ours: Array, theirs: Array) -> Array:
    """Where both are finite, the same infinity, or NaN."""
    finite = np.isfinite(ours) & np.isfinite(theirs)
    same: Array = finite | (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    return same


def _row_rms(values: Array, finite: Array) -> Array:
    """``[rows]`` over the finite values of each; 0 without any."""
    squares = np.square(np.where(finite, values, 0.0)).sum(1)
    rms: Array = np.sqrt(squares / np.maximum(finite.sum(1), 1))
    return rms
