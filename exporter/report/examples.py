"""Samples of the evidence with the truth's answer and the artifact's beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from exporter.report.here import Answers, Here
from exporter.report.pictures import looks_like_image, picture_address
from exporter.report.words import NOTHING, number, percent, shape
from runtime.golden import Case, Golden, Kept
from runtime.manifest import LOAD_OUTPUT, Manifest
from runtime.preprocess import top_labels
from runtime.tensors import Array

SHOWN = 16
_VALUES = 6
"""Of an input or output that has no picture and no label."""
_KINDS = ("real", "random")
"""What examples are taken from: the first of these that the evidence holds."""


@dataclass(frozen=True)
class Named:
    """A class that an answer names, and how sure it is."""

    label: str
    score: str


@dataclass(frozen=True)
class Compared:
    """One output of one sample.

    Attributes:
        truth: Its first values, or the class that it names.
        artifact: The same of the artifact; none where it did not run.
        difference: The largest one; empty where there is nothing to compare.
    """

    output: str
    truth: str
    artifact: str | None
    difference: str


@dataclass(frozen=True)
class Example:
    """One sample.

    Attributes:
        place: Its number in the evidence, from 1.
        picture: A ``data:`` address; none where no input looks like an image.
        inputs: The other inputs in words.
        truth: The class that the truth names; none where the model has no labels.
        artifact: The same of the artifact.
        outputs: Value by value, where the model has no labels.
        stable: Whether its choice of experts is clear.
    """

    place: int
    picture: str | None
    inputs: tuple[str, ...]
    truth: Named | None
    artifact: Named | None
    outputs: tuple[Compared, ...]
    stable: bool

    @property
    def differs(self) -> bool:
        """Whether the two name different classes."""
        named = self.truth is not None and self.artifact is not None
        return named and self.truth.label != self.artifact.label  # type: ignore[union-attr]


@dataclass(frozen=True)
class Examples:
    """What is shown.

    Attributes:
        kind: Of the samples; empty where the evidence holds none to show.
        shown: Those that differ first, then in the order of the evidence.
        total: Samples of the kind.
        differing: Of these, those with different classes.
        labelled: Whether answers are classes.
        not_run: Why the artifact's answers are missing; empty where they are there.
    """

    kind: str
    shown: tuple[Example, ...]
    total: int
    differing: int
    labelled: bool
    not_run: str


def examples_from(golden: Golden, manifest: Manifest, here: Here) -> Examples:
    """Choose samples and put the answers beside each other."""
    kinds = {case.kind for case in golden.cases}
    kind = next((kind for kind in _KINDS if kind in kinds), "")
    found = list(_examples(golden, manifest, here, kind))
    found.sort(key=lambda example: not example.differs)
    return Examples(
        kind=kind,
        shown=tuple(found[:SHOWN]),
        total=len(found),
        differing=sum(example.differs for example in found),
        labelled=bool(found) and all(example.truth is not None for example in found),
        not_run=here.reason,
    )


def _examples(golden: Golden, manifest: Manifest, here: Here, kind: str) -> Iterator[Example]:
    place = 0
    for index, case in enumerate(golden.cases):
        if case.kind != kind:
            continue
        arrays = case.arrays()
        answers = here.answers[index] if here.answers else None
        for rows in _samples(case, golden.batchable):
            place += 1
            inputs = {name: array[rows or ...] for name, array in arrays.items()}
            given = None if answers is None else {n: a[rows or ...] for n, a in answers.items()}
            truth = {n: kept.rows(rows) if rows else kept for n, kept in case.truth.items()}
            stable = case.stable is None or all(case.stable[rows] if rows else case.stable)
            yield _example(place, inputs, truth, given, manifest, stable)


def _samples(case: Case, batchable: bool) -> Sequence[slice | None]:
    """Row by row where rows are samples, else the whole call."""
    return [slice(row, row + 1) for row in range(case.rows())] if batchable else [None]


def _example(
    place: int,
    inputs: dict[str, Array],
    truth: dict[str, Kept],
    given: Answers | None,
    manifest: Manifest,
    stable: bool,
) -> Example:
    drawn = next((name for name, array in inputs.items() if looks_like_image(array)), None)
    prepared = manifest.preprocessing
    prepared = prepared if prepared is not None and prepared.input == drawn else None
    output = _label_output(truth, manifest)
    named = None if output is None else _named(truth[output].values, manifest)
    answered = None if output is None or given is None else _named(given[output], manifest)
    return Example(
        place=place,
        picture=None if drawn is None else picture_address(inputs[drawn], prepared),
        inputs=tuple(f"{name}: {_values(a)}" for name, a in inputs.items() if name != drawn),
        truth=named,
        artifact=answered,
        outputs=() if named else tuple(_compared(n, k, given) for n, k in truth.items()),
        stable=stable,
    )


def _label_output(truth: dict[str, Kept], manifest: Manifest) -> str | None:
    """The first output with one value for each label, kept whole."""
    if not manifest.labels:
        return None
    for name, kept in truth.items():
        whole = kept.positions_seed is None and kept.values.dtype.kind == "f"
        if whole and name != LOAD_OUTPUT and kept.values.size == len(manifest.labels):
            return name
    return None


def _named(values: Array, manifest: Manifest) -> Named:
    labels = manifest.labels or ()
    flat = values.reshape(-1)
    if flat.size != len(labels) or not np.isfinite(flat).all():
        return Named("not a class", "values that are not finite")
    best = top_labels(flat, labels, 1)[0]
    return Named(best.name, percent(best.probability, 1))


def _compared(name: str, kept: Kept, given: Answers | None) -> Compared:
    if given is None or name not in given:
        return Compared(name, _values(kept.values), None, "")
    answer = kept.of(given[name])
    if answer.shape != kept.values.shape:
        return Compared(name, _values(kept.values), _values(answer), "another shape")
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = np.abs(answer.astype(np.float64) - kept.values.astype(np.float64))
    difference = number(float(gaps.max())) if gaps.size else NOTHING
    return Compared(name, _values(kept.values), _values(answer), difference)


def _values(array: Array) -> str:
    """The first values and, where there are more, the shape of all."""
    flat = array.reshape(-1)
    text = ", ".join(_value(item) for item in flat[:_VALUES].tolist())
    if flat.size <= _VALUES:
        return text
    return f"{text}, \N{HORIZONTAL ELLIPSIS} {shape(array.shape)}"


def _value(item: object) -> str:
    return number(item, 4) if isinstance(item, float) else str(item)
