"""Which form a layer takes, by the number of tokens that its calls may have."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from exporter.experts.check import check_fused
from exporter.experts.forms.fused import why_not_fused
from exporter.experts.node import MoENode
from runtime.errors import ExportError, InvalidInput

log = logging.getLogger(__name__)

FORM_NAMES = ("auto", "sorted", "static", "fused")
MOST_TOKENS_FUSED = 1
"""Above it the sorted form is as fast as ONNX Runtime's operator or faster (docs/moe.md)."""
RUN_TIME_CHOICE_BYTES = 64 * 2**20
"""Of all experts of a model. A graph of two forms holds the weights twice once loaded."""

TokenRange = tuple[int, float]


@dataclass(frozen=True)
class Plan:
    """The form of one layer.

    Attributes:
        form: ``sorted``, ``static`` or ``fused``.
        tokens: Fewest and most tokens of a call; ``math.inf`` where that is not known.
        few: The form for at most ``MOST_TOKENS_FUSED`` tokens, chosen at run time; none
            where one form serves all.
    """

    form: str
    tokens: TokenRange
    few: str | None = None

    def __str__(self) -> str:
        if self.few is None:
            return self.form
        return f"{self.few} up to {MOST_TOKENS_FUSED} token, {self.form} above"


def plan_layers(
    layers: Iterable[MoENode], form: str, ranges: Mapping[str, tuple[int, int]]
) -> list[Plan]:
    """Choose a form for each layer.

    Args:
        layers: All expert layers of a model.
        form: One of ``FORM_NAMES``.
        ranges: Smallest and largest size of the model's free axes.

    Raises:
        InvalidInput: There is no such form.
        ExportError: ``fused`` is asked for and cannot compute a layer, or disagrees.
    """
    if form not in FORM_NAMES:
        raise InvalidInput(f"--moe-form is '{form}'; wanted one of {', '.join(FORM_NAMES)}")
    layers = list(layers)
    room = sum(moe.weight_bytes for moe in layers) <= RUN_TIME_CHOICE_BYTES
    return [_plan(moe, form, token_range(moe, ranges), room) for moe in layers]


def token_range(moe: MoENode, ranges: Mapping[str, tuple[int, int]]) -> TokenRange:
    """Fewest and most tokens of a call: the product of the leading axes of ``x``."""
    assert moe.x.shape is not None
    low, high = 1, 1.0
    for axis in moe.x.shape[:-1]:
        ends = [_size(axis, {name: ends[i] for name, ends in ranges.items()}) for i in (0, 1)]
        low *= 0 if ends[0] is None else ends[0]
        high *= math.inf if ends[1] is None else ends[1]
    return low, high


def _size(axis: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | None:
    """None where an axis has no name, or one that is not declared."""
    if isinstance(axis, int):
        return axis
    if not axis.free_symbols():
        return None
    size = axis.evaluate(sizes)
    return size if isinstance(size, int) else None


def _plan(moe: MoENode, form: str, tokens: TokenRange, room_for_two: bool) -> Plan:
    if form == "fused":
        check_fused(moe)
    if form != "auto":
        return Plan(form, tokens)
    low, high = tokens
    if low > MOST_TOKENS_FUSED or not _fused_agrees(moe):
        return Plan("sorted", tokens)
    if high <= MOST_TOKENS_FUSED:
        return Plan("fused", tokens)
    # Of gated experts the two forms want layouts that share nothing.
    return Plan("sorted", tokens, few="fused" if room_for_two and not moe.gated else None)


def _fused_agrees(moe: MoENode) -> bool:
    if why_not_fused(moe) is not None:
        return False
    try:
        check_fused(moe)
    except ExportError as error:
        log.warning("%s", error)
        return False
    return True
