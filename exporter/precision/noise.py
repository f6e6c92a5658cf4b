"""How much noise a lowered graph adds to each output, beside the same graph in float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from exporter.precision.run import Arrays, answers_of
from runtime.manifest import LOAD_OUTPUT
from runtime.proof import signal_to_noise_db
from runtime.tensors import Array

Noise = Mapping[str, float]
"""By output: the noise's power over the signal's; infinite where NaN or infinity came."""


class Meter:
    """Measures variants of one graph on the same inputs.

    The graph in float32 stands for the truth: it is nearer to it than any noise of interest.
    Rows whose tokens went to other experts are left out, as the proof leaves near ties out.
    """

    def __init__(self, model: ir.Model, calls: Sequence[Arrays]) -> None:
        """Run the graph itself.

        Args:
            model: Typed, in float32.
            calls: Inputs by name.

        Raises:
            ExportError: It cannot be run.
        """
        self._calls = calls
        self._names = [str(value.name) for value in model.graph.outputs]
        self._right = answers_of(model, calls, self._names)

    def noise_of(self, variant: ir.Model) -> Noise:
        """The noise of a variant of the graph.

        Raises:
            ExportError: It cannot be run.
        """
        given = answers_of(variant, self._calls, self._names)
        floats = [name for name in self._names if self._right[0][name].dtype.kind == "f"]
        return {name: self._power(name, given) for name in floats}

    def _power(self, name: str, given: Sequence[Arrays]) -> float:
        noise, signal = 0.0, 0.0
        for right, answer in zip(self._right, given, strict=True):
            true, found = (side[name].astype(np.float64) for side in (right, answer))
            if LOAD_OUTPUT in right:
                same = _same_experts(right[LOAD_OUTPUT], answer[LOAD_OUTPUT])
                true, found = true[same], found[same]
            finite = np.isfinite(true)
            with np.errstate(invalid="ignore"):
                noise += float(np.square(found[finite] - true[finite]).sum())
            signal += float(np.square(true[finite]).sum())
        if not np.isfinite(noise):
            return float("inf")
        if signal == 0:
            return float("inf") if noise else 0.0
        return noise / signal


def worst(noise: Noise) -> float:
    """The largest noise of any output; 0 where there are no float outputs."""
    return max(noise.values(), default=0.0)


def in_db(noise: float) -> float:
    """A noise as a signal-to-noise ratio."""
    return signal_to_noise_db(1.0, float(np.sqrt(noise)))


def from_db(ratio_db: float) -> float:
    """A signal-to-noise ratio as a noise."""
    return float(10 ** (-ratio_db / 10))


def _same_experts(right: Array, given: Array) -> Array:
    """``[rows]``."""
    return np.asarray((right == given).reshape(len(right), -1).all(1))
