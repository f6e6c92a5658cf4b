"""The judge: is this artifact, on this backend and device, the same model as the module?

NumPy only, so that the server and ``twinport parity`` judge as the exporter did. Truth is
the module in float64; the yardstick is what PyTorch's own float32 misses it by. What is
judged is summed in ``error_pool.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from runtime.error_pool import ErrorPool, Scale
from runtime.manifest import LOAD_OUTPUT
from runtime.precision import FULL, KINDS, RULES, Rule
from runtime.proof_records import Judgement

RMS_LIMIT = 4.0
"""Times the pooled float32 error that an artifact's pooled error may be."""
MAX_LIMIT = 8.0
"""Times the largest float32 error that an artifact's largest error may be."""
EXTREME_LIMIT = 1e-4
"""Relative RMS on extreme inputs, over the values that are finite."""
ROUTING_MARGIN = RULES[FULL].routing_margin
"""Of fp32: beyond it every float32 computation chooses the same experts."""


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
    error = pool.rms_error()
    size = pool.rms_truth()
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
    error, size = pool.rms_error(), pool.rms_truth()
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


def _ratio(value: float, unit: float) -> float:
    if unit > 0:
        return value / unit
    return 0.0 if value == 0 else float("inf")


def _finite(value: float) -> float | None:
    """JSON has no infinity; the reason says what it was."""
    return value if np.isfinite(value) else None
