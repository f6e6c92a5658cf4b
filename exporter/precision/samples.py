"""The inputs that inner values are measured on: real ones where there are some, and drawn ones.

They are never those that the proof is judged on: of a data set the training part, of the
user's samples every second one, of drawn inputs others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from exporter.ranges import range_of
from exporter.real import RealData, training_data
from exporter.samples import Plan, shared_batch_axis
from exporter.source import Source
from runtime.errors import InvalidInput
from runtime.tensors import Array

Arrays = Mapping[str, Array]

REAL_ROWS = 512
"""Of a data set; spread over all of it."""
HELD = 4
"""Every so many samples one is held back to measure noise on."""
_ROWS_A_CALL = 32
_DRAWN_CALLS = 6
_SEED = 7_919
"""Another than any proof's first ones: drawn inputs are not those that are judged."""


@dataclass(frozen=True)
class Calibration:
    """Inputs to measure on.

    Attributes:
        real: Calls with real inputs; empty where there are none.
        held: Calls with other real inputs, on which noise is measured: ranges fit best the
            values that they were read off.
        drawn: Calls with drawn inputs.
        name: Of the real ones, with their number, for people.
        rest: What is left for the proof.
    """

    real: tuple[Arrays, ...]
    held: tuple[Arrays, ...]
    drawn: tuple[Arrays, ...]
    name: str
    rest: RealData | None

    @property
    def calls(self) -> tuple[Arrays, ...]:
        """All of them."""
        return (*self.real, *self.held, *self.drawn)


def calibration_inputs(
    source: Source, data: Path | None, real: RealData | None, given: bool
) -> Calibration:
    """Choose the inputs.

    Args:
        source: What is exported.
        data: Folder of MNIST, for the built-in models.
        real: The proof's real inputs, where there are some.
        given: Whether they are the user's own, of which every second one is taken.

    Raises:
        InvalidInput: The user gave one sample only, which cannot be measured and judged on.
    """
    axis = shared_batch_axis(tuple(source.inputs))
    drawn = tuple(_drawn(source, axis))
    if real is None:
        return Calibration((), (), drawn, f"{len(drawn)} calls with drawn inputs", None)
    if not given:
        return _from_training(source, data, real, axis, drawn)
    if len(real) < 2:
        raise InvalidInput(
            f"{real.name} holds one sample; a lower precision is measured on some and judged on "
            "others, so give two at least"
        )
    taken, rest = (_every_second(real, start) for start in (1, 0))
    name = f"every second sample of {real.name} ({min(len(taken), REAL_ROWS)})"
    return Calibration(*_parted(source, taken, axis), drawn, name, rest)


def _from_training(
    source: Source, data: Path | None, real: RealData, axis: str | None, drawn: tuple[Arrays, ...]
) -> Calibration:
    training, rest = training_data(source, data, real, REAL_ROWS)
    count = min(len(training), REAL_ROWS)
    return Calibration(*_parted(source, training, axis), drawn, f"{count} {training.name}", rest)


def _parted(
    source: Source, real: RealData, axis: str | None
) -> tuple[tuple[Arrays, ...], tuple[Arrays, ...]]:
    """Calls to read ranges off, and every fourth sample to measure noise on."""
    inputs = _spread(real.inputs, REAL_ROWS)
    count = min(len(array) for array in inputs.values())
    held = np.arange(count) % HELD == HELD - 1
    if not held.any():  # too few to part
        calls = tuple(_calls(source, inputs, axis))
        return calls, calls
    parts = ({name: array[rows] for name, array in inputs.items()} for rows in (~held, held))
    first, second = (tuple(_calls(source, part, axis)) for part in parts)
    return first, second


def _every_second(real: RealData, start: int) -> RealData:
    inputs = {name: array[: len(real)][start::2] for name, array in real.inputs.items()}
    labels = None if real.labels is None else real.labels[start::2]
    return replace(real, inputs=inputs, labels=labels)


def _spread(inputs: Arrays, count: int) -> dict[str, Array]:
    """At most ``count`` rows, evenly over all."""
    rows = min(len(array) for array in inputs.values())
    places = np.unique(np.linspace(0, rows - 1, min(rows, count)).astype(int))
    return {name: array[places] for name, array in inputs.items()}


def _calls(source: Source, inputs: Arrays, axis: str | None) -> Iterator[Arrays]:
    """Rows joined where the inputs have a batch axis; else each is a call."""
    rows = min(len(array) for array in inputs.values())
    if axis is None:
        for row in range(rows):
            yield {name: np.array(array[row], order="C") for name, array in inputs.items()}
        return
    low, high = range_of(axis, source.ranges)
    step = max(1, min(high, _ROWS_A_CALL))
    for start in range(0, rows, step):
        # The last rows once more where fewer are left than a call must have.
        part = slice(max(0, min(start, rows - low)), min(start + step, rows))
        yield {name: np.array(array[part], order="C") for name, array in inputs.items()}


def _drawn(source: Source, axis: str | None) -> Iterator[Arrays]:
    """Of every size of the free axes; batches no larger than real ones."""
    ranges = dict(source.ranges)
    if axis is not None:
        low, high = range_of(axis, source.ranges)
        ranges[axis] = max(low, 1), max(low, 1, min(high, _ROWS_A_CALL))
    small = replace(source, ranges=ranges)
    plan = Plan(small, axis, axis is not None, _SEED)
    for sample in islice(plan.random(), _DRAWN_CALLS):
        yield sample.arrays()
