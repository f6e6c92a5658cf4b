"""The judge: is this artifact, on this backend and device, the same model as the module?

NumPy only, so that the server and ``twinport parity`` judge as the exporter did. Truth is
the module in float64; the yardstick is what PyTorch's own float32 misses it by. Errors are
pooled over all samples of a kind, because per batch correct models reach factors of
hundreds, and the yardstick has a floor, because a model may be right by luck.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from runtime.manifest import LOAD_OUTPUT, Judgement
from runtime.precision import FULL, KINDS, RULES, Rule
from runtime.tensors import Array

RMS_LIMIT = 4.0
"""Times the pooled float32 error that an artifact's pooled error may be."""
MAX_LIMIT = 8.0
"""Times the largest float32 error that an artifact's largest error may be."""
LOAD_RANK = 3
"""``[rows, layers, experts]``."""
FLOOR = 8 * 2.0**-24
"""Of the truth's size: eight half-units in the last place of float32."""
EXTREME_LIMIT = 1e-4
"""Relative RMS on extreme inputs, over the values that are finite."""
ROUTING_MARGIN = RULES[FULL].routing_margin
"""Of fp32: beyond it every float32 computation chooses the same experts."""
NUDGE = 2.0**-16
"""Of an input's size: how far extreme inputs are moved to see how the truth moves.

A norm over a constant map or a sine of thousands amplifies rounding so much that no two
correct float32 programs agree to ``EXTREME_LIMIT``. Where PyTorch's own error is above the
floor, which is the sign of that, or the truth is zero and has no size, ``RMS_LIMIT``
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

    def scale(self) -> Scale:
        """The yardstick that these samples give: float32's own error, floored."""
        floor, own = self.floor(), _rms(self.torch_squares, self.finite)
        moved = _rms(self.moved_squares, self.finite) if self.movement_counts() else 0.0
        return Scale(max(own, floor.rms), max(self.max_torch, floor.maximum), moved)

    def movement_counts(self) -> bool:
        """Whether the truth's movement widens the limit: float32 is at the floor or above.

        At the floor as well: a truth of zeros has no size, and both sides may be zero.
        """
        return _rms(self.torch_squares, self.finite) >= self.floor().rms

    def floor(self) -> Scale:
        """What no float32 computation can be asked to undercut."""
        return Scale(FLOOR * _rms(self.truth_squares, self.finite), FLOOR * self.max_truth)


def truth_with_overflow(truth: Array, torch32: Array) -> Array:
    """The truth, with float32's NaN and infinity where PyTorch itself gives them.

    A value that overflows in float32 is finite in float64; the artifact must overflow
    as PyTorch does.
    """
    return np.where(np.isfinite(torch32), truth, torch32.astype(np.float64))


def judge(
    pool: ErrorPool,
    output: str,
    kind: str,
    *,
    extreme: bool,
    scale: Scale | None = None,
    may_be_constant: bool = True,
    rule: Rule = RULES[FULL],
) -> Judgement:
    """Judge one output over one kind of input.

    Args:
        pool: The pooled errors.
        output: Name of the output.
        kind: Name of the kind of input (``random``).
        extreme: Whether the kind is judged by pattern and relative error only, the error
            against ``EXTREME_LIMIT`` or what the truth's own movement allows.
        scale: The yardstick kept with the evidence; the pool's own where none is given.
            The floor for the samples at hand holds in any case.
        may_be_constant: Whether an output that never varies may pass.
        rule: That of the artifact's precision.

    Returns:
        Numbers, limits and verdict. Comparisons are written so that NaN fails.
    """
    verdict, reason = _general_verdict(pool, kind, extreme, may_be_constant, rule)
    if pool.integral or not pool.finite:
        share = pool.differing / max(pool.elements, 1)
        return Judgement(
            output, kind, extreme, pool.samples, pool.elements, share, None, None, 0.0,
            None, None, None, None, None, verdict, reason, unstable=pool.unstable,
        )  # fmt: skip
    if rule.snr_db is not None:
        least = rule.snr_db if kind in rule.judged else None
        return _judge_by_noise(pool, output, kind, extreme, scale, least, verdict, reason)
    own, floor = scale or pool.scale(), pool.floor()
    yard = Scale(max(own.rms, floor.rms), max(own.maximum, floor.maximum))
    error = _rms(pool.error_squares, pool.finite)
    size = _rms(pool.truth_squares, pool.finite)
    # In absolute terms first: the truth may be all zeros.
    allowed = max(EXTREME_LIMIT * size, RMS_LIMIT * own.moved)
    relative, limit = _ratio(error, size), _ratio(allowed, size)
    rms_factor, max_factor = _ratio(error, yard.rms), _ratio(pool.max_error, yard.maximum)
    if verdict == "passed" and extreme and not error <= allowed:
        verdict, reason = "failed", f"relative RMS {relative:.2g} > {limit:.2g}"
    if verdict == "passed" and not extreme:
        verdict, reason = _ordinary_verdict(rms_factor, max_factor)
    return Judgement(
        output, kind, extreme, pool.samples, pool.elements,
        _finite(error), _finite(yard.rms), _finite(rms_factor), None if extreme else RMS_LIMIT,
        _finite(pool.max_error), _finite(yard.maximum), _finite(max_factor),
        None if extreme else MAX_LIMIT, _finite(relative), verdict, reason,
        _finite(limit) if extreme else None, pool.unstable,
    )  # fmt: skip


_Verdict = Literal["passed", "failed", "vacuous"]


def _judge_by_noise(
    pool: ErrorPool,
    output: str,
    kind: str,
    extreme: bool,
    scale: Scale | None,
    least_db: float | None,
    verdict: _Verdict,
    reason: str,
) -> Judgement:
    """A precision below fp32: by the error's power beside the truth's.

    The error in units of float32's own is there to be seen, with no limit.
    """
    own, floor = scale or pool.scale(), pool.floor()
    yard = Scale(max(own.rms, floor.rms), max(own.maximum, floor.maximum))
    error, size = (
        _rms(squares, pool.finite) for squares in (pool.error_squares, pool.truth_squares)
    )
    ratio = signal_to_noise_db(size, error)
    if verdict == "passed" and least_db is not None and not ratio >= least_db:
        verdict, reason = "failed", f"signal-to-noise {ratio:.1f} dB; at least {least_db:g} dB"
    return Judgement(
        output, kind, extreme, pool.samples, pool.elements,
        _finite(error), _finite(yard.rms), _finite(_ratio(error, yard.rms)), None,
        _finite(pool.max_error), _finite(yard.maximum),
        _finite(_ratio(pool.max_error, yard.maximum)), None,
        _finite(_ratio(error, size)), verdict, reason, None, pool.unstable,
        _finite(ratio), least_db,
    )  # fmt: skip


def signal_to_noise_db(signal_rms: float, noise_rms: float) -> float:
    """Ratio of two powers in decibels; infinite without noise, also where there is no signal."""
    if noise_rms == 0:
        return float("inf")
    if not signal_rms > 0 or not np.isfinite(noise_rms):
        return float("-inf")
    return 20 * float(np.log10(signal_rms / noise_rms))


def _general_verdict(
    pool: ErrorPool, kind: str, extreme: bool, constant: bool, rule: Rule
) -> tuple[_Verdict, str]:
    """What fails whatever the size of the error; the first that holds is named."""
    if pool.wrong_shape:
        return "failed", pool.wrong_shape
    if pool.spoilt and (pool.load or kind not in rule.unbounded):
        what = "lost tokens" if pool.load else "gave values that are not finite"
        return "failed", f"{pool.spoilt} of {pool.unstable} unstable samples {what}"
    if pool.samples == 0 and extreme and pool.unstable:
        return "passed", ""
    if pool.samples == 0:
        left_out = f"; all {pool.unstable} route unstably" if pool.unstable else ""
        return "failed", f"no sample was run{left_out}"
    if pool.differing > _may_differ(pool, kind, rule):
        what = "elements differ" if pool.integral else "values differ in NaN or infinity"
        return "failed", f"{pool.differing} of {pool.elements} {what}"
    if not extreme and pool.not_numbers:
        return "failed", f"{pool.not_numbers} of {pool.elements} values are NaN"
    if not extreme and not constant and not pool.load and not pool.varies():
        return "vacuous", f"the output does not vary over {pool.samples} samples"
    return "passed", ""


def _may_differ(pool: ErrorPool, kind: str, rule: Rule) -> int:
    """Elements that may be unequal: none, but of a precision below fp32.

    There whole numbers (a class, say) may differ as labels may, the load of experts may not,
    and inputs beyond the precision's range may overflow.
    """
    if rule.snr_db is None:
        return 0
    if not pool.integral:
        return pool.elements if kind in rule.unbounded else 0
    if kind not in rule.judged:
        return pool.elements
    return 0 if pool.load else pool.elements - rule.fewest_agreeing(pool.elements)


def _ordinary_verdict(rms_factor: float, max_factor: float) -> tuple[_Verdict, str]:
    if not rms_factor <= RMS_LIMIT:
        return "failed", f"RMS error is {rms_factor:.4g} x float32's own; at most {RMS_LIMIT:g}"
    if not max_factor <= MAX_LIMIT:
        return "failed", f"largest error is {max_factor:.4g} x float32's own; at most {MAX_LIMIT:g}"
    return "passed", ""


def is_load(output: str) -> bool:
    """Whether an output is the load of experts."""
    return output == LOAD_OUTPUT


def all_passed(judgements: Iterable[Judgement]) -> bool:
    """Whether there is a judgement at all and none is other than passed."""
    verdicts = [judgement.verdict for judgement in judgements]
    return bool(verdicts) and all(verdict == "passed" for verdict in verdicts)


def uncovered(outputs: Iterable[str], judgements: Sequence[Judgement], rule: Rule) -> str:
    """One line for the first output that nothing was judged of; empty where all are covered.

    Where the precision is judged on some kinds of input only, one of those must be there.
    """
    for name in outputs:
        kinds = {item.kind for item in judgements if item.output == name}
        if not kinds:
            return f"the evidence says nothing of output '{name}'"
        if rule.snr_db is not None and not kinds & rule.judged:
            return (
                f"there are no {' or '.join(sorted(rule.judged & KINDS))} inputs for output "
                f"'{name}', and {rule.precision} is judged on no others"
            )
    return "" if judgements else "the evidence is empty"


def first_failure(judgements: Iterable[Judgement]) -> str:
    """One line for the first judgement that did not pass; empty where all did."""
    for item in judgements:
        if item.verdict != "passed":
            return f"output '{item.output}' on {item.kind} inputs is {item.verdict}: {item.reason}"
    return ""


def _rms(squares: float, count: int) -> float:
    return float(np.sqrt(squares / count)) if count else 0.0


def _ratio(value: float, unit: float) -> float:
    if unit > 0:
        return value / unit
    return 0.0 if value == 0 else float("inf")


def _finite(value: float) -> float | None:
    """JSON has no infinity; the reason says what it was."""
    return value if np.isfinite(value) else None
