"""Predicted classes of a labelled data set: the artifact's against the truth's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from exporter.real import RealData
from exporter.trio import Answers, Trio
from runtime.error_pool import Scale
from runtime.precision import FULL, RULES, Rule
from runtime.proof import MAX_LIMIT
from runtime.proof_records import LabelCheck
from runtime.tensors import Array

_TRUTH_ROWS = 500


def check_labels(
    trio: Trio, real: RealData, scale: Scale, batch: int | None, rule: Rule = RULES[FULL]
) -> LabelCheck | None:
    """Compare the classes of all rows.

    A disagreement is excused only where the truth's values of the two classes are nearer to
    each other than twice the error that the tolerance allows: there either class is right
    within tolerance. A precision below fp32 may name another class in a share of the rows.

    Args:
        trio: The truth and the artifact.
        real: Rows with labels.
        scale: The yardstick of the output with the classes.
        batch: Rows in one call of the artifact; none where the data comes in whole calls.
        rule: That of the artifact's precision.

    Returns:
        Counts and accuracies, or nothing where the data has no labels.
    """
    if real.labels is None or real.label_output is None:
        return None
    output, count = real.label_output, len(real.labels)
    inputs = real.inputs if batch else _joined_calls(real.inputs)
    size = batch or _rows_of_a_call(real.inputs)
    truth = _run(lambda rows: trio.label_truth(rows)[output], inputs, _TRUTH_ROWS)[:count]
    given = _run(lambda rows: trio.artifact_answers(rows)[output], inputs, size)[:count]
    return compare_labels(real.name, real.labels, truth, given, scale, rule)


def compare_labels(
    dataset: str,
    labels: Array,
    truth: Array,
    given: Array,
    scale: Scale,
    rule: Rule = RULES[FULL],
) -> LabelCheck:
    """Compare the classes that two outputs name.

    Args:
        dataset: For people.
        labels: ``[rows]`` the right classes.
        truth: ``[rows, classes]`` in float64.
        given: ``[rows, classes]`` of the artifact.
        scale: The yardstick of the output.
        rule: That of the artifact's precision.
    """
    classes, named = truth.argmax(-1), given.argmax(-1)
    differing = classes != named
    chosen = np.take_along_axis(truth, named[:, np.newaxis], axis=-1)[:, 0]
    near = truth.max(axis=-1) - chosen <= 2 * MAX_LIMIT * scale.maximum
    agreeing = int((~differing).sum())
    fewest = None if rule.label_share is None else rule.fewest_agreeing(len(labels))
    wrong = bool((differing & ~near).any()) if fewest is None else agreeing < fewest
    return LabelCheck(
        dataset=dataset,
        samples=len(labels),
        agreeing=agreeing,
        excused=int((differing & near).sum()),
        artifact_accuracy=float((named == labels).mean()),
        torch_accuracy=float((classes == labels).mean()),
        verdict="failed" if wrong else "passed",
        fewest=fewest,
    )


def _joined_calls(inputs: Answers) -> dict[str, Array]:
    """``[rows, ...]`` out of ``[calls, batch, ...]``."""
    return {name: array.reshape(-1, *array.shape[2:]) for name, array in inputs.items()}


def _rows_of_a_call(inputs: Answers) -> int:
    rows: int = next(iter(inputs.values())).shape[1]
    return rows


def _run(infer: Callable[[Answers], Array], inputs: Answers, batch: int) -> Array:
    rows = min(len(array) for array in inputs.values())
    parts = [
        infer({name: array[start : start + batch] for name, array in inputs.items()})
        for start in range(0, rows, batch)
    ]
    return np.concatenate(parts)
