"""One sample through three models: the truth, PyTorch's float32, and the artifact."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from exporter.samples import Draws, Sample
from exporter.source import Source
from exporter.truth import Truth, torch_float32
from runtime.backends.base import Backend
from runtime.error_pool import NUDGE, ErrorPool, Scale
from runtime.errors import ExportError, InvalidInput
from runtime.proof import ROUTING_MARGIN, is_load
from runtime.tensors import Array

Answers = Mapping[str, Array]
_NUDGE_SEED = 20240229
PART_ROWS = 16
"""Rows of a large batch whose truth is computed at once: in float64 they take memory."""


@dataclass(frozen=True)
class Answered:
    """What the three gave for one sample, by the artifact's output names."""

    sample: Sample
    truth: Answers
    torch32: Answers
    artifact: Answers
    moved: Answers = field(default_factory=dict)
    """The truth with the inputs moved by ``NUDGE``; empty where the kind is ordinary."""
    stable: Array | None = None
    """``[rows]`` whether a row's routing is stable; none without layers of experts."""


@dataclass(frozen=True)
class Alone:
    """What the module gave for some rows of a sample."""

    truth: Answers
    torch32: Answers
    stable: Array | None


class Trio:
    """The three models side by side."""

    def __init__(
        self,
        source: Source,
        outputs: Sequence[str],
        backend: Backend,
        margin: float = ROUTING_MARGIN,
    ) -> None:
        """Set the three up.

        Args:
            source: The module.
            outputs: The artifact's, in the module's order.
            backend: The artifact, loaded.
            margin: Gap in the choice of experts from which on a sample is stable.
        """
        self._margin = margin
        self._outputs = list(outputs)
        self._backend = backend
        self._torch32 = torch_float32(source.module, also=source.also)
        self._truth = Truth(source.module, source.also)
        self._alone: dict[Draws, dict[int, Alone]] = {}
        self._together: dict[Draws, Answers] = {}

    @property
    def lowered(self) -> tuple[str, ...]:
        """Operators of the truth that fell below float64 so far."""
        return self._truth.lowered

    def check_repeats(self, sample: Sample) -> None:
        """Refuse a module whose answer is not a function of its inputs.

        Its float32 error would be its own randomness, and excuse any artifact.

        Raises:
            ExportError: The same inputs gave two answers, or the module fails on them.
        """
        inputs = sample.arrays()
        first, second = (self._part(inputs, sample) for _ in range(2))
        if _rows_of(inputs) == 1:
            self._alone[sample.draws()] = {0: first}
        for name, answer in first.truth.items():
            again = second.truth[name]
            same = answer.shape == again.shape and answer.tobytes() == again.tobytes()
            if not same:
                raise ExportError(
                    f"the module gives two answers for the same inputs in output '{name}'; "
                    "take random numbers (dropout that ignores eval) and counters out of forward"
                )

    def run(self, sample: Sample, *, rows: bool = False, until: float = math.inf) -> Answered:
        """Run one sample through all three.

        Args:
            sample: One call.
            rows: Whether its rows do not depend on each other, so that the truth of a large
                batch may be computed in parts, and rows that were run alone are not run again.
            until: The time after which no more parts are begun, by ``time.monotonic``. The
                artifact gets the whole batch in any case; what is given then is of the rows
                that have a truth.

        Raises:
            ExportError: The module itself, or the artifact, cannot take the sample.
        """
        inputs = sample.arrays()
        alone = self._alone.pop(sample.draws(), {}) if rows else {}
        if rows and alone and len(alone) == _rows_of(inputs):
            parts = [alone[row] for row in sorted(alone)]
        elif rows:
            parts = self._in_parts(inputs, sample, until)
        else:
            parts = [self._part(inputs, sample)]
        done = _joined(parts)
        artifact = self._artifact_of(sample, inputs)
        count = _rows_of(done.truth)
        if rows and count < _rows_of(inputs):
            sample = sample.first_rows(count)
            artifact = {name: array[:count] for name, array in artifact.items()}
        moved = self._moved(sample, done, artifact, rows) if sample.extreme else {}
        return Answered(sample, done.truth, done.torch32, artifact, moved, done.stable)

    def run_alone(self, sample: Sample, inputs: Answers, row: int) -> Alone:
        """The module on one row of a sample; remembered for the run of the whole."""
        part = self._part({name: array[row : row + 1] for name, array in inputs.items()}, sample)
        self._alone.setdefault(sample.draws(), {})[row] = part
        return part

    def artifact_together(self, sample: Sample, inputs: Answers) -> Answers:
        """The artifact on a sample; remembered for the run of it."""
        answers = self._backend.infer(inputs)
        self._together[sample.draws()] = answers
        return answers

    def artifact_answers(self, inputs: Answers) -> Answers:
        """The artifact alone."""
        return self._backend.infer(inputs)

    def _in_parts(self, inputs: Answers, sample: Sample, until: float) -> list[Alone]:
        count = _rows_of(inputs)
        parts: list[Alone] = []
        for start in range(0, max(count, 1), PART_ROWS):
            if parts and time.monotonic() > until:
                break
            part = {name: array[start : start + PART_ROWS] for name, array in inputs.items()}
            parts.append(self._part(part, sample))
        return parts

    def _part(self, inputs: Answers, sample: Sample) -> Alone:
        truth, torch32 = self.module_answers(inputs, sample)
        return Alone(truth, torch32, self.stable())

    def _artifact_of(self, sample: Sample, inputs: Answers) -> Answers:
        kept = self._together.pop(sample.draws(), None)
        if kept is not None:
            return kept
        try:
            return self._backend.infer(inputs)
        except InvalidInput as error:
            raise ExportError(
                f"the artifact fails where the module does not, on {_described(sample)}: {error}"
            ) from error

    def _moved(self, sample: Sample, done: Alone, artifact: Answers, rows: bool) -> Answers:
        """The truth with the inputs moved, where it can widen a limit."""
        for name, truth in done.truth.items():
            pool = ErrorPool(rows, is_load(name))
            pool.add(artifact[name], truth, done.torch32[name], stable=done.stable)
            if not pool.integral and pool.movement_counts():
                return self._named(self._truth(_nudged(sample.arrays())))
        return {}

    def stable(self) -> Array | None:
        """``[rows]`` of the last truth: whether every token's choice of experts is clear."""
        margin = self._truth.margin
        return None if margin is None else margin > self._margin

    def module_answers(self, inputs: Answers, sample: Sample) -> tuple[Answers, Answers]:
        """The truth and PyTorch's float32 answer, named as the artifact's outputs."""
        try:
            return self._named(self._truth(inputs)), self._named(self._torch32(inputs))
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0]
            raise ExportError(
                f"the module itself fails on {_described(sample)}: {type(error).__name__}: "
                f"{first[:200]}; narrow --range, or --values for integer inputs"
            ) from error

    def label_truth(self, inputs: Answers) -> Answers:
        """The truth alone, for many rows where nothing else is asked."""
        return self._named(self._truth(inputs))

    def _named(self, answers: Answers) -> Answers:
        return dict(zip(self._outputs, answers.values(), strict=True))


@dataclass
class Pools:
    """Error pools by output and kind."""

    rows: bool
    pools: dict[tuple[str, str], ErrorPool] = field(default_factory=dict)
    extremes: dict[str, bool] = field(default_factory=dict)

    def add(self, answered: Answered) -> None:
        """Take one sample in."""
        kind = answered.sample.kind
        self.extremes[kind] = answered.sample.extreme
        for output, truth in answered.truth.items():
            pool = self.pools.setdefault((output, kind), ErrorPool(self.rows, is_load(output)))
            pool.add(
                answered.artifact[output], truth, answered.torch32[output],
                answered.moved.get(output), answered.stable,
            )  # fmt: skip

    def samples(self, kind: str) -> int:
        """Samples pooled of a kind so far."""
        return max((p.samples for (_, k), p in self.pools.items() if k == kind), default=0)

    def scales(self) -> dict[tuple[str, str], Scale]:
        """The yardsticks of all float outputs."""
        return {key: pool.scale() for key, pool in self.pools.items() if not pool.integral}


def _rows_of(arrays: Answers) -> int:
    first = next(iter(arrays.values()))
    return len(first) if first.ndim else 1


def _joined(parts: Sequence[Alone]) -> Alone:
    """Rows after each other."""
    if len(parts) == 1:
        return parts[0]
    flags = [part.stable for part in parts if part.stable is not None]
    return Alone(
        {name: np.concatenate([p.truth[name] for p in parts]) for name in parts[0].truth},
        {name: np.concatenate([p.torch32[name] for p in parts]) for name in parts[0].torch32},
        np.concatenate(flags) if flags else None,
    )


def _nudged(inputs: Answers) -> dict[str, Array]:
    """Floats up or down by chance, by ``NUDGE`` of their size, or of one if they are smaller.

    In float64, the same way in every run.
    """
    signs = np.random.RandomState(_NUDGE_SEED)
    nudged: dict[str, Array] = {}
    for name, array in inputs.items():
        nudged[name] = array
        if array.dtype.kind == "f":
            wide = array.astype(np.float64)
            direction = signs.randint(0, 2, size=array.shape) * 2 - 1
            nudged[name] = wide + direction * NUDGE * np.maximum(np.abs(wide), 1)
    return nudged


def _described(sample: Sample) -> str:
    shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in sample.arrays().items())
    return f"{sample.kind} inputs {shapes}"
