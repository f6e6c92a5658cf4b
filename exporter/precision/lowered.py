"""The main flow of lowering a graph: measure, choose, keep to the budget, change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from exporter.passes.run import run_passes
from exporter.precision.budget import within_budget
from exporter.precision.choose import Choice, choose_floats
from exporter.precision.emulate import emulated
from exporter.precision.kinds import FLOATS, INT8, FloatKind
from exporter.precision.lower import lower_floats
from exporter.precision.noise import Meter
from exporter.precision.quantise import choose_products, quantise
from exporter.precision.ranges import input_scales
from exporter.precision.run import largest_magnitudes
from exporter.precision.samples import Calibration
from runtime.manifest import KeptModule, QuantisedOperator
from runtime.precision import rule_of


@dataclass(frozen=True)
class Lowered:
    """A graph in a lower precision.

    Attributes:
        model: It; its ends are as they were.
        operators: That compute in the lower precision.
        ratio_db: Signal-to-noise ratio of the worst output on the inputs measured on, with
            every lowered value rounded.
        kept: Modules that stayed fp32.
        quantised: Of int8, what was quantised.
    """

    model: ir.Model
    operators: int
    ratio_db: float
    kept: tuple[KeptModule, ...]
    quantised: tuple[QuantisedOperator, ...] = ()


def lower_graph(
    model: ir.Model, precision: str, calibration: Calibration, keep: Sequence[str]
) -> Lowered:
    """Lower a graph as far as the precision's error budget allows.

    Args:
        model: Typed, in float32, of an opset that has the precision; left as it is.
        precision: One of ``LOWER``.
        calibration: Inputs to measure on.
        keep: Modules that the user keeps in fp32.

    Raises:
        ExportError: Nothing can be lowered, or nothing within the budget.
    """
    if precision == INT8:
        return _to_int8(model, calibration, keep)
    return _to_float(model, FLOATS[precision], calibration, keep)


def _to_float(
    model: ir.Model, kind: FloatKind, calibration: Calibration, keep: Sequence[str]
) -> Lowered:
    largest = largest_magnitudes(model, calibration.calls)
    choice = choose_floats(model, kind, keep, largest)

    def lowered(chosen: Choice) -> ir.Model:
        return lower_floats(kind, chosen.chosen)(model.clone())[0]

    meter = Meter(model, (*calibration.held, *calibration.drawn))
    found = within_budget(
        choice, meter, lambda chosen: emulated(lowered(chosen), kind), rule_of(kind.name)
    )
    final = run_passes(model.clone(), [lower_floats(kind, found.choice.chosen)])
    return Lowered(final, len(found.choice.chosen), found.ratio_db, found.choice.record())


def _to_int8(model: ir.Model, calibration: Calibration, keep: Sequence[str]) -> Lowered:
    calls = calibration.real
    largest = largest_magnitudes(model, calls)
    choice = choose_products(model, keep, largest)
    reads = {
        str(node.inputs[0].name)
        for node in model.graph
        if str(node.name) in choice.chosen and node.inputs[0] is not None
    }
    scales = input_scales(model, calls, largest, sorted(reads))

    def quantised(chosen: Choice) -> ir.Model:
        return quantise(chosen.chosen, scales, [])(model.clone())[0]

    meter = Meter(model, (*calibration.held, *calls))
    found = within_budget(choice, meter, quantised, rule_of(INT8))
    record: list[QuantisedOperator] = []
    final = run_passes(model.clone(), [quantise(found.choice.chosen, scales, record)])
    return Lowered(final, len(record), found.ratio_db, found.choice.record(), tuple(record))
