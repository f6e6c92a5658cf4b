"""Synthetic inputs by generator and seed, the same numbers on every machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from runtime.tensors import Array

Generator = Literal["normal", "uniform", "large", "constant", "integers"]

LARGE = 1e3
"""Least magnitude of an input of the generator ``large``."""


_GOLDEN = (5**0.5 - 1) / 2
"""Its multiples, modulo one, never meet again and spread evenly."""


@dataclass(frozen=True)
class Draw:
    """What an input is drawn with; the same numbers on every machine.

    ``numpy.random.RandomState`` is frozen by NumPy's compatibility policy.

    Attributes:
        generator: ``normal`` (standard), ``uniform`` and ``integers`` in ``[low, high)``,
            ``large`` (either sign, at least 1,000), ``constant`` (row i holds one value
            everywhere, ``low + (high - low) * (i * golden % 1)``). All of them draw row
            after row: fewer rows begin with the same numbers.
        seed: Of this draw alone.
        shape: Of the array.
        dtype: Of the array, one of ``runtime.tensors``.
    """

    generator: Generator
    seed: int
    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float = 0.0
    high: float = 1.0

    def array(self) -> Array:
        """Draw it."""
        return np.asarray(_GENERATORS[self.generator](self), dtype=self.dtype, order="C")


def _normal(draw: Draw) -> Array:
    return np.asarray(np.random.RandomState(draw.seed).standard_normal(draw.shape))


def _uniform(draw: Draw) -> Array:
    unit = np.random.RandomState(draw.seed).random_sample(draw.shape)
    return np.asarray(draw.low + (draw.high - draw.low) * unit)


def _large(draw: Draw) -> Array:
    normal = _normal(draw)
    return np.asarray(np.where(normal < 0, -LARGE, LARGE) * (1 + np.abs(normal)))


def _constant(draw: Draw) -> Array:
    rows = draw.shape[0] if draw.shape else 1
    steps = draw.low + np.arange(rows) * _GOLDEN % 1 * (draw.high - draw.low)
    column = steps.reshape((rows, *[1] * (len(draw.shape) - 1)) if draw.shape else ())
    return np.broadcast_to(column, draw.shape)


def _integers(draw: Draw) -> Array:
    source = np.random.RandomState(draw.seed)
    return source.randint(int(draw.low), int(draw.high), size=draw.shape, dtype=np.int64)


_GENERATORS: Mapping[str, Callable[[Draw], Array]] = {
    "normal": _normal,
    "uniform": _uniform,
    "large": _large,
    "constant": _constant,
    "integers": _integers,
}
