"""The load of experts as the metrics of a server have it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from prometheus_client.samples import Sample

from runtime.errors import InvalidInput
from runtime.experts.arrays import IntArray
from runtime.experts.load import evenness

_TABLES = {"twinport_expert_tokens_total": "tokens", "twinport_expert_window_tokens": "window"}
_NUMBERS = {
    "twinport_expert_load_share": "share",
    "twinport_expert_window_requests": "window_requests",
}
_REQUESTS = "twinport_expert_load_requests_total"


@dataclass(frozen=True)
class LayerLoad:
    """One layer in the window.

    Attributes:
        layer: Its number.
        tokens: Of all its experts.
        busiest: The expert with most tokens.
        least: The one with fewest.
        unused: Experts without a token.
        balance: 1 - standard deviation over mean; none without any token.
        max_over_mean: Of the busiest; likewise.
    """

    layer: int
    tokens: int
    busiest: int
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
    """

    model: str
    version: str
    share: float
    requests: dict[str, int]
    tokens: IntArray
    window_requests: int
    window: IntArray

    def layers(self) -> list[LayerLoad]:
        """Each layer in the window."""
        return [_layer(number, row) for number, row in enumerate(self.window)]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        arrays = {"tokens": self.tokens.tolist(), "window": self.window.tolist()}
        return {**vars(self), **arrays, "layers": [vars(each) for each in self.layers()]}


def loads_from_samples(samples: Iterable[Sample], model: str | None = None) -> list[ModelLoad]:
    """Every version whose experts are counted, or some of them.

    Args:
        samples: All metrics.
        model: ``NAME`` for the versions of one model, ``NAME/VERSION`` for one.

    Raises:
        InvalidInput: There is none.
    """
    numbers: dict[tuple[str, str], dict[str, float]] = {}
    requests: dict[tuple[str, str], dict[str, int]] = {}
    cells: dict[tuple[str, str], dict[str, dict[tuple[int, int], int]]] = {}
    for name, labels, value, *_ in samples:
        if not name.startswith("twinport_expert_"):
            continue
        key = labels["model"], labels["version"]
        if model not in (None, key[0], "/".join(key)):
            continue
        if name in _NUMBERS:
            numbers.setdefault(key, {})[_NUMBERS[name]] = value
        elif name == _REQUESTS:
            requests.setdefault(key, {})[labels["outcome"]] = int(value)
        elif name in _TABLES:
            place = int(labels["layer"]), int(labels["expert"])
            cells.setdefault(key, {}).setdefault(_TABLES[name], {})[place] = int(value)
    if not numbers:
        whose = f"of '{model}' " if model is not None else ""
        raise InvalidInput(
            f"no load of experts {whose}is counted there; serve a model that has the output "
            "'expert_load', with --experts-load above 0"
        )
    return [
        ModelLoad(
            *key, numbers[key]["share"], requests[key], _table(cells[key]["tokens"]),
            int(numbers[key]["window_requests"]), _table(cells[key]["window"]),
        )
        for key in sorted(numbers, key=lambda key: (key[0], len(key[1]), key[1]))
    ]  # fmt: skip


def _table(cells: dict[tuple[int, int], int]) -> IntArray:
    places = np.array(list(cells))
    table = np.zeros(places.max(0) + 1, np.int64)
    table[tuple(places.T)] = list(cells.values())
    return table


def _layer(number: int, row: IntArray) -> LayerLoad:
    balance, highest = evenness(row) or (None, None)
    return LayerLoad(
        number, int(row.sum()), int(row.argmax()), int(row.argmin()), int((row == 0).sum()),
        balance, highest,
    )  # fmt: skip
