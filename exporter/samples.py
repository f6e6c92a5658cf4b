"""Which inputs a proof runs: ordinary kinds and extreme ones, at every declared size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from exporter.graph import free_axes
from exporter.ranges import DEFAULT_RANGE, range_of
from exporter.source import Source
from runtime.draws import Draw
from runtime.golden import Drawn, drawn_from_draw
from runtime.tensors import Array, TensorSpec

BATCH_SIZES = (1, 2, 7)
POOLED_SAMPLES = 64
"""At least so many samples of each ordinary kind."""
LARGEST_BATCH = 64
_CONSTANTS = (-2.0, 2.0)
"""Between these lie the values of the constant kind, one a row."""
_PICTURES = {"zeros": (0.0, 0.0), "constant": (0.0, 256.0), "large": (255.0, 255.0)}
"""Black, one shade a picture, and white: pixels have no values beyond."""


Draws = tuple[tuple[str, Drawn | int], ...]


def first_rows(value: Array | Drawn, rows: int) -> Array | Drawn:
    """The first rows of an input; a draw of fewer rows begins with the same numbers."""
    if not isinstance(value, Drawn):
        return np.ascontiguousarray(value[:rows])
    return drawn_from_draw(replace(value.draw, shape=(rows, *value.draw.shape[1:])))


@dataclass(frozen=True)
class Sample:
    """One call: its inputs, and how they were drawn where they were."""

    kind: str
    extreme: bool
    inputs: Mapping[str, Array | Drawn]
    axes: Mapping[str, int]
    """Sizes of the free axes in this call."""

    def draws(self) -> Draws:
        """What tells drawn samples apart; given inputs are never the same."""
        return tuple(
            (name, value if isinstance(value, Drawn) else id(value))
            for name, value in self.inputs.items()
        )

    def first_rows(self, count: int) -> Sample:
        """A sample of the first rows; a draw of fewer rows begins with the same numbers."""
        return replace(
            self, inputs={name: first_rows(value, count) for name, value in self.inputs.items()}
        )

    def arrays(self) -> dict[str, Array]:
        """The inputs themselves."""
        return {
            name: value.array() if isinstance(value, Drawn) else value
            for name, value in self.inputs.items()
        }


@dataclass(frozen=True)
class Plan:
    """How to draw samples for a source.

    Attributes:
        batch_axis: The free axis that is first in every input, where there is one.
        rows: Whether a row along that axis is a sample of its own; else a whole call is
            one, and each size is met twice in a row, so that there is something to compare.
        seed: Of all draws.
    """

    source: Source
    batch_axis: str | None
    rows: bool
    seed: int

    def batch_sizes(self) -> tuple[int, ...]:
        """1, 2, 7 and the upper bound, as far as the declared range has them, and 0 if it has."""
        if self.batch_axis is None:
            return (1,)
        low, high = range_of(self.batch_axis, self.source.ranges)
        top = min(high, max(LARGEST_BATCH, low))
        sizes = (low, *BATCH_SIZES, top) if low == 0 else (*BATCH_SIZES, top)
        return tuple(sorted({min(max(size, low), top) for size in sizes}))

    def axis_sizes(self) -> dict[str, tuple[int, ...]]:
        """Least, middle (by ratio) and greatest size of every other free axis."""
        sizes: dict[str, tuple[int, ...]] = {}
        for axis in free_axes(self.source.inputs):
            if axis != self.batch_axis:
                low, high = self.source.ranges.get(axis, DEFAULT_RANGE)
                middle = round((max(low, 1) * high) ** 0.5)
                sizes[axis] = tuple(sorted({low, middle, high}))
        return sizes

    def random(self) -> Iterator[Sample]:
        """Every batch size with every size of the other axes, until enough are pooled.

        The first round has each size of each axis at least once; a proof that is cut by
        its budget has run that round.
        """
        pooled, turn = 0, 0
        rounds = self.first_round()
        while turn < rounds or pooled < POOLED_SAMPLES:
            sample = self._drawn("random", turn, self._sizes(turn if self.rows else turn // 2))
            yield sample
            pooled += self.samples_in(sample)
            turn += 1

    def samples_in(self, sample: Sample) -> int:
        """Rows of a call where a row is a sample, else one."""
        return sample.axes[self.batch_axis] if self.rows and self.batch_axis else 1

    def another(self, turn: int) -> Sample:
        """One more random sample, of the smallest batch, unlike those of ``random``."""
        return self._drawn("random", 10_000 + turn, {**self._sizes(0)})

    def first_samples(self) -> list[Sample]:
        """The random kind's first round."""
        return list(islice(self.random(), self.first_round()))

    def first_round(self) -> int:
        """Calls until every size of every axis was met."""
        others = max((len(sizes) for sizes in self.axis_sizes().values()), default=1)
        return max(len(self.batch_sizes()), others) * (1 if self.rows else 2)

    def extremes(self) -> Iterator[Sample]:
        """Zeros, constants and large values, where an input is a float or a picture at all."""
        floats = any(spec.dtype.startswith("float") for spec in self.source.inputs)
        if not floats and self.source.pixels is None:
            return
        for turn, (kind, size) in enumerate((("zeros", 2), ("constant", 4), ("large", 7))):
            axes = self._sizes(turn)
            if self.batch_axis:
                low, high = range_of(self.batch_axis, self.source.ranges)
                axes[self.batch_axis] = min(max(size, low), high)
            yield self._drawn(kind, turn, axes)

    def _sizes(self, turn: int) -> dict[str, int]:
        batches = self.batch_sizes()
        axes = {
            # Shifted against each other, so that not all axes are large at once.
            axis: sizes[(turn + i) % len(sizes)]
            for i, (axis, sizes) in enumerate(self.axis_sizes().items())
        }
        return {self.batch_axis: batches[turn % len(batches)], **axes} if self.batch_axis else axes

    def _drawn(self, kind: str, turn: int, axes: Mapping[str, int]) -> Sample:
        inputs: dict[str, Array | Drawn] = {}
        for i, spec in enumerate(self.source.inputs):
            shape = tuple(axes[a] if isinstance(a, str) else a for a in spec.shape)
            seed = (self.seed * 1_000_003 + turn * 101 + i) % 2**32
            inputs[spec.name] = drawn_from_draw(self._draw(kind, spec, shape, seed))
        return Sample(kind, kind != "random", inputs, dict(axes))

    def _draw(self, kind: str, spec: TensorSpec, shape: tuple[int, ...], seed: int) -> Draw:
        values = self.source.values.get(spec.name)
        if spec.name == self.source.pixels and kind in _PICTURES:
            return Draw("constant", seed, shape, spec.dtype, *_PICTURES[kind])
        if not spec.dtype.startswith("float"):
            low, high = values or (0, 2)
            return Draw("integers", seed, shape, spec.dtype, low, high)
        if kind == "zeros":
            return Draw("constant", seed, shape, spec.dtype, 0.0, 0.0)
        if kind == "constant":
            return Draw("constant", seed, shape, spec.dtype, *_CONSTANTS)
        if kind == "large":
            return Draw("large", seed, shape, spec.dtype)
        if values:
            return Draw("uniform", seed, shape, spec.dtype, *values)
        return Draw("normal", seed, shape, spec.dtype)


def shared_batch_axis(tensors: tuple[TensorSpec, ...]) -> str | None:
    """The free axis that all tensors have first, or none."""
    firsts = {spec.shape[0] if spec.shape else None for spec in tensors}
    first = next(iter(firsts)) if len(firsts) == 1 else None
    return first if isinstance(first, str) else None


def real_samples(
    inputs: Mapping[str, Array], plan: Plan, limit: int = POOLED_SAMPLES
) -> Iterator[Sample]:
    """Cut real rows into calls of the plan's batch sizes.

    Args:
        inputs: ``[rows, ...]`` for each input; ``[calls, ...]``, a whole input each, where
            the inputs have no batch axis.
        plan: Says whether rows may be sent together.
        limit: Samples at most.
    """
    rows = min(len(array) for array in inputs.values())
    if plan.batch_axis is None:
        for call in range(min(rows, limit)):
            part = {name: np.array(array[call], order="C") for name, array in inputs.items()}
            yield Sample("real", False, part, {})
        return
    sizes = plan.batch_sizes()
    start, turn, pooled = 0, 0, 0
    while start < rows and pooled < limit:
        size = min(sizes[(turn if plan.rows else turn // 2) % len(sizes)], rows - start)
        size = min(size, limit - pooled) if plan.rows else size
        part = {name: np.ascontiguousarray(a[start : start + size]) for name, a in inputs.items()}
        sample = Sample("real", False, part, {plan.batch_axis: size})
        yield sample
        start, turn, pooled = start + size, turn + 1, pooled + plan.samples_in(sample)
