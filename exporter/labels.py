"""Predicted classes of a labelled data set: the artifact's against the truth's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exporter.real import RealData
from exporter.trio import Answers, Trio
from runtime.manifest import LabelCheck
from runtime.proof import MAX_LIMIT, Scale
from runtime.tensors import Array

_TRUTH_ROWS = 500


def check_labels(trio: Trio, real: RealData, scale: Scale, batch: int) -> LabelCheck | None:
    """Compare the classes of all rows.

    A disagreement is excused only where the truth's values of the two classes are nearer to
    each other than twice the error that the tolerance allows: there either class is right
    within tolerance.

    Args:
        trio: The truth and the artifact.
        real: Rows with labels.
        scale: The yardstick of the output with the classes.
        batch: Rows in one call of the artifact.

    Returns:
        Counts and accuracies, or nothing where the data has no labels.
    """
    if real.labels is None or real.label_output is None:
        return None
    output = real.label_output
    truth = _run(lambda rows: trio.label_truth(rows)[output], real, _TRUTH_ROWS)
    given = _run(lambda rows: trio.artifact_answers(rows)[output], real, batch)
    classes, named = truth.argmax(-1), given.argmax(-1)
    differing = classes != named
    chosen = np.take_along_axis(truth, named[:, np.newaxis], axis=-1)[:, 0]
    near = truth.max(axis=-1) - chosen <= 2 * MAX_LIMIT * scale.maximum
    return LabelCheck(
        dataset=real.name,
        samples=len(real),
        agreeing=int((~differing).sum()),
        excused=int((differing & near).sum()),
        artifact_accuracy=float((named == real.labels).mean()),
        torch_accuracy=float((classes == real.labels).mean()),
        verdict="failed" if bool((differing & ~near).any()) else "passed",
    )


def _run(infer: Callable[[Answers], Array], real: RealData, batch: int) -> Array:
    parts = [
        infer({name: array[start : start + batch] for name, array in real.inputs.items()})
        for start in range(0, len(real), batch)
    ]
    return np.concatenate(parts)
