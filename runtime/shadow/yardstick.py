"""What a difference is measured by, from the evidence of a version and the reference's replay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from runtime.error_pool import FLOOR
from runtime.golden import Golden
from runtime.proof import RMS_LIMIT
from runtime.proof_records import Judgement
from runtime.tensors import Array


@dataclass(frozen=True)
class Yardstick:
    """The yardstick of one output.

    Attributes:
        scale: ``s``: RMS by which PyTorch's float32 misses the truth, floored.
        relative: ``s`` over the truth's RMS: answers larger than the evidence's may miss
            by as much more.
        limit: In units of ``s``: what the served artifact may miss the truth by, and what
            the reference itself does.
    """

    scale: float
    relative: float
    limit: float


@dataclass(frozen=True)
class InputSize:
    """How large one input is on the ordinary samples of the evidence."""

    largest: float
    rms: float


@dataclass(frozen=True)
class Ground:
    """All that comparisons of one version lean on.

    Attributes:
        rows: Whether axis 0 of every tensor counts samples; else a request is one sample.
        outputs: Yardsticks of the outputs in floating point.
        inputs: Sizes of the inputs that are numbers.
    """

    rows: bool
    outputs: Mapping[str, Yardstick]
    inputs: Mapping[str, InputSize]


def ground_from_golden(golden: Golden, judgements: Iterable[Judgement]) -> Ground:
    """Read the yardsticks off the evidence.

    Args:
        golden: The evidence.
        judgements: Those of the reference on it. Of several ordinary kinds the one with the
            largest scale counts for an output: a correct artifact stays within each.
    """
    outputs: dict[str, Yardstick] = {}
    for item in judgements:
        if item.extreme or item.rms_scale is None or item.rms_error is None:
            continue
        known = outputs.get(item.output)
        if known is not None and known.scale >= item.rms_scale:
            continue
        size = _rms(
            case.truth[item.output].values
            for case in golden.cases
            if case.kind == item.kind and item.output in case.truth
        )
        own = item.rms_error / item.rms_scale if item.rms_scale else 0.0
        relative = item.rms_scale / size if size else FLOOR
        outputs[item.output] = Yardstick(item.rms_scale, relative, RMS_LIMIT + own)
    return Ground(golden.batchable, outputs, _input_sizes(golden))


def _input_sizes(golden: Golden) -> dict[str, InputSize]:
    arrays: dict[str, list[Array]] = {}
    for case in golden.cases:
        if not case.extreme:
            for name, array in case.arrays().items():
                if array.dtype.kind in "iuf":
                    arrays.setdefault(name, []).append(array)
    return {
        name: InputSize(
            max(float(np.abs(item.astype(np.float64)).max(initial=0)) for item in items),
            _rms(items),
        )
        for name, items in arrays.items()
    }


def _rms(arrays: Iterable[Array]) -> float:
    """Over the finite values of all."""
    squares, count = 0.0, 0
    for array in arrays:
        finite = array[np.isfinite(array)].astype(np.float64)
        squares += float(np.square(finite).sum())
        count += finite.size
    return float(np.sqrt(squares / count)) if count else 0.0
