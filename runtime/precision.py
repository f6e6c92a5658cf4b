"""The precisions an artifact may have, and the rule that each is judged by: one table.

fp32 is judged by PyTorch's own float32 error (``runtime/proof.py``). A lower precision is
wrong by design, and by much more than that; what is asked of it is how far its noise lies
below the truth. The rule is chosen by the precision that the manifest states and is no part
of the evidence, so that evidence which was edited is judged no milder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.errors import ManifestError

FULL = "fp32"
HALVES = frozenset({"fp16", "bf16"})
"""Float types of sixteen bits, which not every provider has kernels for."""

KINDS = frozenset({"real", "random"})
"""Ordinary kinds of input; others are extreme."""
ORDINARY = KINDS | {"joined"}
"""With the comparison of joined rows, which have a verdict of their own."""


@dataclass(frozen=True)
class Rule:
    """How one precision is judged.

    Attributes:
        precision: Its name in the manifest.
        snr_db: Least signal-to-noise ratio of an output against the truth, in decibels;
            none where float32's own error is the measure.
        judged: Kinds of input whose ratio is judged; of others it is shown.
        unbounded: Kinds of input that leave the range of the precision, where NaN and
            infinity need not be the truth's.
        label_share: Least share of a data set's samples, in parts of 10,000, on which
            artifact and truth name the same class; none where only near ties may differ.
        routing_margin: Least gap between the last chosen expert and the next, over the
            layer's largest value, from which on the precision chooses as the truth does:
            twice the precision's roundoff, where gates stay fp32 and only the noise of
            earlier layers moves them.
        reason: Why the numbers are what they are.
    """

    precision: str
    snr_db: float | None
    judged: frozenset[str]
    unbounded: frozenset[str]
    label_share: int | None
    routing_margin: float
    reason: str

    def fewest_agreeing(self, samples: int) -> int:
        """How many labels must be the truth's; one may differ in a small data set."""
        allowed = -(-samples * (10_000 - (self.label_share or 0)) // 10_000)
        return samples - allowed


RULES: Mapping[str, Rule] = {
    rule.precision: rule
    for rule in (
        Rule(
            FULL, None, ORDINARY, frozenset(), None, 16 * 2.0**-23,
            "judged by PyTorch's own float32 error",
        ),
        Rule(
            "fp16", 40.0, ORDINARY, frozenset({"large"}), 9_990, 2.0**-10,
            "one rounding to 11 bits leaves 71 dB; 31 dB are for layers in a row, which add "
            "noise of their own and amplify what comes",
        ),
        Rule(
            "bf16", 22.0, ORDINARY, frozenset(), 9_950, 2.0**-7,
            "one rounding to 8 bits leaves 53 dB; 31 dB are for layers in a row, as in fp16",
        ),
        Rule(
            "int8", 20.0, frozenset({"real", "joined"}), frozenset({"large"}), 9_980,
            2.0**-7,
            "a value at a quarter of its range keeps 38 dB in 8 bits; 18 dB are for layers in a "
            "row. Ranges are calibrated on real samples and hold for no others",
        ),
    )
}  # fmt: skip
"""By precision. Calibrated in ``benchmarks/tolerance.py``; ``docs/tolerance.md`` has the table."""


def rule_of(precision: str) -> Rule:
    """The rule of a precision.

    Raises:
        ManifestError: The table has none.
    """
    try:
        return RULES[precision]
    except KeyError:
        raise ManifestError(
            f"precision '{precision[:40]}' has no rule to be judged by; this release knows "
            f"{', '.join(RULES)}"
        ) from None
