"""The load of experts as the metrics of a server have it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from prometheus_client.samples import Sample

from runtime.errors import InvalidInput
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.load import Pair, evenness

_TABLES = {
    "twinport_expert_tokens_total": "tokens",
    "twinport_expert_window_tokens": "window",
    "twinport_expert_decayed_tokens": "decayed",
}
_NUMBERS = {
    "twinport_expert_load_share": "share",
    "twinport_expert_window_requests": "window_requests",
    "twinport_expert_remembered_requests": "remembered",
}
_REQUESTS = "twinport_expert_load_requests_total"
_PAIRS = "twinport_expert_pair_requests"
_COUNTED = {*_TABLES, *_NUMBERS, _REQUESTS, _PAIRS}
"""What is read; the scores of layers, which may be negative, are computed here."""


@dataclass(frozen=True)
class LayerLoad:
    """One layer in the window.

    Attributes:
        layer: Its number.
        tokens: Of all its experts.
        busiest: The expert with most tokens.
        lately: The one with most decayed tokens.
        least: The one with fewest.
        unused: Experts without a token.
        balance: 1 - standard deviation over mean; none without any token.
        max_over_mean: Of the busiest; likewise.
    """

    layer: int
    tokens: int
    busiest: int
    lately: int
    least: int
    unused: int
    balance: float | None
    max_over_mean: float | None


@dataclass(frozen=True)
class ModelLoad:
    """One version.

    Attributes:
        share: Of its calls that are counted.
        requests: By what became of them: counted, dropped.
        tokens: ``[layers, experts]`` since the server began.
        window_requests: In the window.
        window: ``[layers, experts]`` tokens of the window.
        decayed: ``[layers, experts]`` tokens, each weighted by its age.
        remembered: Requests counted in all.
        pairs: By layer, the experts called together in most of those, estimated; the strongest
            pair first. None where there are none.
    """

    model: str
    version: str
    share: float
    requests: dict[str, int]
    tokens: IntArray
    window_requests: int
    window: IntArray
    decayed: FloatArray
    remembered: int
    pairs: list[list[Pair]] | None

    def layers(self) -> list[LayerLoad]:
        """Each layer in the window."""
        rows = zip(self.window, self.decayed, strict=True)
        return [_layer(number, row, decayed) for number, (row, decayed) in enumerate(rows)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        arrays = {name: getattr(self, name).tolist() for name in _TABLES.values()}
        pairs = None
        if self.pairs is not None:
            pairs = [
                [{"experts": [one, other], "requests": count} for one, other, count in layer]
                for layer in self.pairs
            ]
        layers = [vars(each) for each in self.layers()]
        return {**vars(self), **arrays, "pairs": pairs, "layers": layers}


@dataclass
class _Found:
    """What the samples say of one version."""

    numbers: dict[str, float] = field(default_factory=dict)
    requests: dict[str, int] = field(default_factory=dict)
    cells: dict[str, dict[tuple[int, int], float]] = field(default_factory=dict)
    pairs: dict[int, list[Pair]] = field(default_factory=dict)


def loads_from_samples(samples: Iterable[Sample], model: str | None = None) -> list[ModelLoad]:
    """Every version whose experts are counted, or some of them.

    Args:
        samples: All metrics.
        model: ``NAME`` for the versions of one model, ``NAME/VERSION`` for one.

    Raises:
        InvalidInput: There is none, or its numbers cannot be.
    """
    found: dict[tuple[str, str], _Found] = {}
    for sample in samples:
        if not sample.name.startswith("twinport_expert_"):
            continue
        try:
            key = sample.labels["model"], sample.labels["version"]
            if model in (None, key[0], "/".join(key)):
                _take(found.setdefault(key, _Found()), sample)
        except (KeyError, ValueError) as error:
            raise InvalidInput(
                f"{sample.name} has the labels {sample.labels} and is {sample.value}; these are "
                "not the metrics of twinport serve"
            ) from error
    if not found:
        whose = f"of '{model}' " if model is not None else ""
        raise InvalidInput(
            f"no load of experts {whose}is counted there; serve a model that has the output "
            "'expert_load', with --experts-load above 0"
        )
    return [
        _model_load(key, found[key])
        for key in sorted(found, key=lambda key: (key[0], len(key[1]), key[1]))
    ]


def _take(found: _Found, sample: Sample) -> None:
    name, labels, value, *_ = sample
    if name not in _COUNTED:
        return
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(value)
    if name in _NUMBERS:
        found.numbers[_NUMBERS[name]] = value
    elif name == _REQUESTS:
        found.requests[labels["outcome"]] = int(value)
    elif name in _TABLES:
        place = _index(labels["layer"]), _index(labels["expert"])
        found.cells.setdefault(_TABLES[name], {})[place] = value
    elif name == _PAIRS:
        pair = _index(labels["expert"]), _index(labels["other"]), value
        if pair[0] >= pair[1]:
            raise ValueError(pair)
        found.pairs.setdefault(_index(labels["layer"]), []).append(pair)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def _model_load(key: tuple[str, str], found: _Found) -> ModelLoad:
    """One version.

    Raises:
        InvalidInput: Something is missing, or the tables differ in shape.
    """
    known = {**_NUMBERS, **_TABLES}
    missing = [name for name, its in known.items() if its not in {**found.numbers, **found.cells}]
    if missing:
        raise InvalidInput(
            f"the metrics of {'/'.join(key)} have no {missing[0]}; is the server of another "
            "version of Twinport?"
        )
    layers, experts = (1 + max(place[axis] for place in found.cells["window"]) for axis in (0, 1))
    places = set(found.cells["window"])
    whole = len(places) == layers * experts
    named = {(layer, one) for layer, its in found.pairs.items() for pair in its for one in pair[:2]}
    same = all(set(cells) == places for cells in found.cells.values())
    if not (whole and same and named <= places):
        raise InvalidInput(f"the metrics of {'/'.join(key)} lack some experts of some layers")
    tables = {name: _table(cells, (layers, experts)) for name, cells in found.cells.items()}
    numbers = found.numbers
    return ModelLoad(
        *key, numbers["share"], found.requests, tables["tokens"].astype(np.int64),
        int(numbers["window_requests"]), tables["window"].astype(np.int64), tables["decayed"],
        int(numbers["remembered"]), _pairs(found.pairs, layers) if found.pairs else None,
    )  # fmt: skip


def _table(cells: dict[tuple[int, int], float], shape: tuple[int, int]) -> FloatArray:
    table = np.zeros(shape)
    table[tuple(np.array(list(cells)).T)] = list(cells.values())
    return table


def _pairs(found: dict[int, list[Pair]], layers: int) -> list[list[Pair]]:
    return [sorted(found.get(layer, []), key=lambda pair: -pair[2]) for layer in range(layers)]


def _layer(number: int, row: IntArray, decayed: FloatArray) -> LayerLoad:
    balance, highest = evenness(row) or (None, None)
    return LayerLoad(
        number, int(row.sum()), int(row.argmax()), int(decayed.argmax()), int(row.argmin()),
        int((row == 0).sum()), balance, highest,
    )  # fmt: skip
