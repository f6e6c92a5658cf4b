"""One sample through three models: the truth, PyTorch's float32, and the artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from exporter.samples import Sample
from exporter.source import Source
from exporter.truth import Truth, torch_float32
from runtime.backends.base import Backend
from runtime.errors import ExportError, InvalidInput
from runtime.proof import NUDGE, ROUTING_MARGIN, ErrorPool, Scale, is_load
from runtime.tensors import Array

Answers = Mapping[str, Array]
_NUDGE_SEED = 20240229


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
        first, second = (self.module_answers(sample.arrays(), sample)[0] for _ in range(2))
        for name, answer in first.items():
            again = second[name]
            same = answer.shape == again.shape and answer.tobytes() == again.tobytes()
            if not same:
                raise ExportError(
                    f"the module gives two answers for the same inputs in output '{name}'; "
                    "take random numbers (dropout that ignores eval) and counters out of forward"
                )

    def run(self, sample: Sample) -> Answered:
        """Run one sample through all three.

        Raises:
            ExportError: The module itself, or the artifact, cannot take the sample.
        """
        inputs = sample.arrays()
        truth, torch32 = self.module_answers(inputs, sample)
        stable = self.stable()
        try:
            artifact = self._backend.infer(inputs)
        except InvalidInput as error:
            raise ExportError(
                f"the artifact fails where the module does not, on {_described(sample)}: {error}"
            ) from error
        moved = self._named(self._truth(_nudged(inputs))) if sample.extreme else {}
        return Answered(sample, truth, torch32, artifact, moved, stable)

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

    def artifact_answers(self, inputs: Answers) -> Answers:
        """The artifact alone."""
        return self._backend.infer(inputs)

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
