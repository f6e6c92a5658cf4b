"""Which modules are over their error budget in a lower precision, and stay fp32 for it.

A module's error is what the outputs miss when it alone is lowered. Noises of modules are
independent of each other, so their powers add: the sum may be what the precision's rule
allows, and its equal share is each module's budget. Where the whole graph keeps to the sum
nothing is measured one by one; else modules over their budget are kept, the worst first, until
the rest keeps to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import onnx_ir as ir

from exporter.precision.choose import Choice
from exporter.precision.noise import Meter, from_db, in_db, worst
from runtime.errors import ExportError
from runtime.precision import Rule

log = logging.getLogger(__name__)

MARGIN_DB = 3.0
"""Above the rule's ratio: the proof's samples are others than those measured on."""

Variant = Callable[[Choice], ir.Model]
"""A choice of nodes to a graph that has the noise of lowering them, and runs here."""


@dataclass(frozen=True)
class Budgeted:
    """What may be lowered within the budget.

    Attributes:
        choice: The nodes.
        ratio_db: Signal-to-noise ratio of the worst output, as measured.
    """

    choice: Choice
    ratio_db: float


def within_budget(choice: Choice, meter: Meter, variant: Variant, rule: Rule) -> Budgeted:
    """Keep modules until the rest is within the precision's budget.

    Args:
        choice: Everything that could be lowered.
        meter: Measures.
        variant: Makes what is measured.
        rule: The precision's; its ratio must be met with ``MARGIN_DB`` to spare.

    Raises:
        ExportError: Nothing could be lowered, or everything is over the budget.
    """
    if not choice.chosen:
        raise ExportError(_nothing(choice, rule))
    assert rule.snr_db is not None
    wanted_db = rule.snr_db + MARGIN_DB
    noise = worst(meter.noise_of(variant(choice)))
    if noise <= from_db(wanted_db):
        return Budgeted(choice, in_db(noise))
    return _without_the_worst(choice, meter, variant, rule, wanted_db)


def _without_the_worst(
    choice: Choice, meter: Meter, variant: Variant, rule: Rule, wanted_db: float
) -> Budgeted:
    allowed = from_db(wanted_db)
    alone = {
        module: worst(meter.noise_of(variant(only(choice, module)))) for module in choice.modules()
    }
    budget = allowed / len(alone)
    order = sorted(alone, key=lambda module: alone[module], reverse=True)
    kept: dict[str, str] = {}
    for module in order:
        kept[module] = _reason(alone[module], budget, rule)
        log.info("%s: '%s' stays fp32, %s", rule.precision, module, kept[module])
        if sum(alone[item] for item in order if item not in kept) > allowed:
            continue
        rest = choice.keep(kept)
        if not rest.chosen:
            break
        noise = worst(meter.noise_of(variant(rest)))
        if noise <= allowed:
            return Budgeted(rest, in_db(noise))
    raise ExportError(
        f"no module can be {rule.precision} within the error budget of {wanted_db:g} dB; the best "
        f"alone, '{order[-1]}', reaches {in_db(alone[order[-1]]):.1f} dB"
    )


def only(choice: Choice, module: str) -> Choice:
    """The nodes of one module alone."""
    return Choice({node: own for node, own in choice.chosen.items() if own == module})


def _reason(noise: float, budget: float, rule: Rule) -> str:
    return (
        f"over its error budget: {in_db(noise):.1f} dB in {rule.precision} alone, its share "
        f"is {in_db(budget):.1f} dB"
    )


def _nothing(choice: Choice, rule: Rule) -> str:
    reasons = list(dict.fromkeys(reason for _, reason in choice.kept.values()))
    why = f": {reasons[0]}" if reasons else ""
    return f"nothing of the graph can be {rule.precision}{why}"
