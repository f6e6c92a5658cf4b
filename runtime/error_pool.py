"""Errors of an artifact, summed over samples, and the yardstick that they are held against.

NumPy only, and no verdict: limits and what follows from them are in ``proof.py``. Errors are
pooled over all samples of a kind, because per batch correct models reach factors of hundreds,
and the yardstick has a floor, because a model may be right by luck.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runtime.tensors import Array

LOAD_RANK = 3
"""``[rows, layers, experts]``."""
FLOOR = 8 * 2.0**-24
"""Of the truth's size: eight half-units in the last place of float32."""
NUDGE = 2.0**-16
"""Of an input's size: how far extreme inputs are moved to see how the truth moves.

A norm over a constant map or a sine of thousands amplifies rounding so much that no two
correct float32 programs agree to the judge's ``EXTREME_LIMIT``. Where PyTorch's own error is
above the floor, which is the sign of that, or the truth is zero and has no size, ``RMS_LIMIT``
times the movement is allowed.
"""


@dataclass(frozen=True)
class Scale:
    """The yardstick of one output and kind: PyTorch's float32 error, floored."""

    rms: float
    maximum: float
    moved: float = 0.0
    """RMS by which the truth moves with extreme inputs moved by ``NUDGE``, where PyTorch's
    error is above the floor; else 0."""


@dataclass
class ErrorPool:
    """Errors of one output over all samples of one kind, summed as they come.

    ``rows`` says whether the first axis counts samples (a batch) or a whole array is one.
    """

    rows: bool
    load: bool = False
    """Whether this is the load of experts, of which an unstable sample must keep the sum."""
    samples: int = 0
    unstable: int = 0
    """Samples left out, since their routing is not stable."""
    spoilt: int = 0
    """Of these, those with values that are not finite, or tokens that went nowhere."""
    elements: int = 0
    finite: int = 0
    error_squares: float = 0.0
    torch_squares: float = 0.0
    truth_squares: float = 0.0
    moved_squares: float = 0.0
    max_error: float = 0.0
    max_torch: float = 0.0
    max_truth: float = 0.0
    differing: int = 0
    """Elements unequal (integers) or with another NaN or infinity (floats)."""
    not_numbers: int = 0
    integral: bool = False
    deviation: float = 0.0
    """Largest difference of a sample's truth from the first one of its shape."""
    compared: bool = False
    """Whether any two samples had the same shape, so that the deviation says something."""
    wrong_shape: str = ""
    _first: dict[tuple[int, ...], Array] = field(default_factory=dict, repr=False)

    def add(
        self,
        artifact: Array,
        truth: Array,
        torch32: Array | None = None,
        moved: Array | None = None,
        stable: Array | None = None,
    ) -> None:
        """Take one array of each side in.

        Args:
            artifact: What the artifact gave, any shape.
            truth: The same in float64, or integers, which must be equal.
            torch32: PyTorch's float32 answer; none in a replay, where the scale is known.
            moved: The truth for extreme inputs moved by ``NUDGE``.
            stable: ``[rows]`` whether the routing is; all of a call must be where a whole
                call is one sample.
        """
        self.integral = self.integral or truth.dtype.kind in "biuSUO"
        if artifact.shape != truth.shape:
            self.wrong_shape = f"shape {list(artifact.shape)} where {list(truth.shape)} is right"
            self.samples += 1
            return
        if stable is not None and not stable.all():
            kept = stable if self.rows else np.zeros(0, dtype=bool)
            self._add_unstable(artifact, truth, ~stable)
            if not kept.any():
                return
            artifact, truth = artifact[kept], truth[kept]
            torch32 = None if torch32 is None else torch32[kept]
            moved = None if moved is None else moved[kept]
        self.samples += len(truth) if self.rows and truth.ndim else 1
        self.elements += truth.size
        self._note_deviation(truth)
        if self.integral:
            self.differing += int(np.count_nonzero(artifact != truth))
            return
        self._add_floats(artifact.astype(np.float64), truth, torch32, moved)

    def _add_unstable(self, artifact: Array, truth: Array, unstable: Array) -> None:
        """What holds even where a near tie went the other way (``Routing`` in the design)."""
        whole_load = self.load and truth.ndim == LOAD_RANK
        if self.rows:
            artifact, truth = artifact[unstable], truth[unstable]
        else:
            artifact, truth = artifact[np.newaxis], truth[np.newaxis]
        self.unstable += len(truth)
        if whole_load:
            right = (artifact.sum(-1) == truth.sum(-1)) & (artifact >= 0).all(-1)
        elif self.integral:
            return  # a label, or a load of which only some values are kept
        else:
            right = np.isfinite(artifact) | ~np.isfinite(truth)
        self.spoilt += int(np.count_nonzero(~right.reshape(len(right), -1).all(1)))

    def _add_floats(
        self, artifact: Array, truth: Array, torch32: Array | None, moved: Array | None
    ) -> None:
        expected = truth if torch32 is None else truth_with_overflow(truth, torch32)
        finite = np.isfinite(artifact) & np.isfinite(expected)
        same = finite | (artifact == expected) | (np.isnan(artifact) & np.isnan(expected))
        self.differing += int(np.count_nonzero(~same))
        self.not_numbers += int(np.count_nonzero(np.isnan(artifact) | np.isnan(expected)))
        right = expected[finite]
        if right.size == 0:
            return
        error = np.abs(artifact[finite] - right)
        self.finite += right.size
        self.error_squares += float(np.square(error).sum())
        self.truth_squares += float(np.square(right).sum())
        self.max_error = max(self.max_error, float(error.max()))
        self.max_truth = max(self.max_truth, float(np.abs(right).max()))
        if torch32 is not None:
            missed = np.abs(torch32[finite].astype(np.float64) - right)
            self.torch_squares += float(np.square(missed).sum())
            self.max_torch = max(self.max_torch, float(missed.max()))
        if moved is not None:
            movement = moved[finite] - right
            self.moved_squares += float(np.square(movement[np.isfinite(movement)]).sum())

    def _note_deviation(self, truth: Array) -> None:
        if truth.size == 0 or truth.dtype.kind not in "biuf":
            self.deviation = float("inf") if truth.size else self.deviation
            return
        samples = truth if self.rows and truth.ndim else truth[np.newaxis]
        self.compared |= len(samples) > 1 or samples.shape[1:] in self._first
        first = self._first.setdefault(samples.shape[1:], samples[0].astype(np.float64))
        with np.errstate(invalid="ignore"):  # infinity minus infinity
            moved = np.abs(samples.astype(np.float64) - first)
        self.deviation = max(self.deviation, float(np.nan_to_num(moved, nan=0.0).max()))

    def varies(self) -> bool:
        """Whether the truth differs between samples by more than rounding."""
        return self.deviation > FLOOR * self.max_truth

    def rms_error(self) -> float:
        """RMS(artifact - truth) over the values that are finite."""
        return _rms(self.error_squares, self.finite)

    def rms_truth(self) -> float:
        """RMS(truth) over the same values."""
        return _rms(self.truth_squares, self.finite)

    def _rms_torch(self) -> float:
        return _rms(self.torch_squares, self.finite)

    def scale(self) -> Scale:
        """The yardstick that these samples give: float32's own error, floored."""
        floor, own = self.floor(), self._rms_torch()
        moved = _rms(self.moved_squares, self.finite) if self.movement_counts() else 0.0
        return Scale(max(own, floor.rms), max(self.max_torch, floor.maximum), moved)

    def movement_counts(self) -> bool:
        """Whether the truth's movement widens the limit: float32 is at the floor or above.

        At the floor as well: a truth of zeros has no size, and both sides may be zero.
        """
        return self._rms_torch() >= self.floor().rms

    def floor(self) -> Scale:
        """What no float32 computation can be asked to undercut."""
        return Scale(FLOOR * self.rms_truth(), FLOOR * self.max_truth)


def truth_with_overflow(truth: Array, torch32: Array) -> Array:
    """The truth, with float32's NaN and infinity where PyTorch itself gives them.

    A value that overflows in float32 is finite in float64; the artifact must overflow
    as PyTorch does.
    """
    return np.where(np.isfinite(torch32), truth, torch32.astype(np.float64))


def _rms(squares: float, count: int) -> float:
    return float(np.sqrt(squares / count)) if count else 0.0
