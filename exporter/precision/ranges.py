"""The range of each value that is quantised: where rounding and clipping together cost least.

A wide range has coarse steps, a narrow one clips what is large. Values are counted by
magnitude, and of some ranges the one is taken whose mean squared error over the counts is
least (as in "Integer Quantization for Deep Learning Inference", arXiv 2004.09602, section 5.2,
where the error is the measure in place of the entropy).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.precision.quantise import LEVELS
from exporter.precision.run import Arrays, each_answer, exposed
from runtime.tensors import Array

BINS = 2048
HEADROOM = 1.15
"""Times the range that is best for the values counted: others are a little larger, and a value
that is clipped costs more than the coarser step (measured: with 64 samples 3 dB less noise
on new ones, with 512 a third of one more)."""
_SHARES = np.linspace(0.3, 1.0, 71)
"""Of the largest magnitude: the ranges that are tried."""


def input_scales(
    model: ir.Model, calls: Sequence[Arrays], largest: Mapping[str, float], values: Sequence[str]
) -> dict[str, float]:
    """The value of one step for each value.

    Args:
        model: Typed, in float32.
        calls: Inputs by name, real ones.
        largest: By value, the largest magnitude over the same calls.
        values: What is quantised: inputs of the graph or inner values.

    Raises:
        ExportError: The graph cannot be run.
    """
    counts = {name: np.zeros(BINS, dtype=np.int64) for name in values}
    given = {str(value.name) for value in model.graph.inputs}
    inner = [name for name in values if name not in given]
    for call, answer in zip(calls, each_answer(exposed(model, inner), calls, inner), strict=True):
        for name, array in {**call, **answer}.items():
            if name in counts and largest[name] > 0:
                counts[name] += _counted(array, largest[name])
    return {name: HEADROOM * best_range(counts[name], largest[name]) / LEVELS for name in values}


def _counted(array: Array, largest: float) -> Array:
    magnitudes = np.abs(array[np.isfinite(array)])
    return np.histogram(magnitudes, BINS, (0.0, largest))[0]


def best_range(counts: Array, largest: float) -> float:
    """The range with the least mean squared error.

    Args:
        counts: ``[bins]`` of magnitudes from 0 to ``largest``.
        largest: 0 where every value is 0; any range is right then.
    """
    if largest == 0 or not counts.any():
        return float(LEVELS)
    centres = (np.arange(len(counts)) + 0.5) * (largest / len(counts))
    errors = [_error(counts, centres, share * largest) for share in _SHARES]
    return float(_SHARES[int(np.argmin(errors))] * largest)


def _error(counts: Array, centres: Array, limit: float) -> float:
    """Sum of squared errors: a twelfth of a squared step, and what is clipped."""
    step = limit / LEVELS
    clipped = np.maximum(centres - limit, 0.0)
    inside = centres <= limit
    return float((counts * (np.square(clipped) + inside * step**2 / 12)).sum())
