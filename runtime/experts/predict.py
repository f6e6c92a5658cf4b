"""The next window's load from the windows before it.

The logarithm of an expert's part of its layer is regressed on what was known one window
earlier: its last value, its mean over the last windows, and that of its layer. One pair of
weights is fitted to all experts of all layers, so that a few windows are enough, and nothing is
told about the drift: where load follows the last window, the weight is there; where windows
scatter about something that stays, it is on the mean. Neither weight is negative and they sum
to one at most, so that the forecast lies between what was seen and an even load: without that,
one jump after two windows alike is continued far beyond.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray
from runtime.tensors import Array

REMEMBERED = 8
"""Windows that are looked at; older ones are left out."""

_TARGETS = 3  # of them the last so many are what the weights are fitted to
_HALF = 0.5  # count that stands for none
_STEADY = 1e-3  # ridge, in parts of the variance: decides where windows are all the same
_EDGES = tuple(  # of the triangle of weights: where each begins, and the way to its end
    (np.array(begin, dtype=float), np.array(along, dtype=float))
    for begin, along in (((0, 0), (1, 0)), ((0, 0), (0, 1)), ((0, 1), (1, -1)))
)


@dataclass(frozen=True)
class Forecast:
    """What is expected.

    Attributes:
        load: ``[layers, experts]`` tokens, each layer's sum as in the last window.
        spread: Standard deviation of the logarithm of what came over what was expected,
            in the windows before; 0 where there was but one.
    """

    load: FloatArray
    spread: float


def forecast(windows: Array) -> Forecast:
    """Predict the window after the last.

    Args:
        windows: ``[windows, layers, experts]`` counts, the oldest first.

    Raises:
        PlacementError: There is no window, or a count is negative or not finite.
    """
    check_counts(windows)
    recent = windows[-REMEMBERED:]
    total = recent[-1].sum(1, keepdims=True)
    if len(recent) < _TARGETS:
        value = _logarithm(recent)
        spread = 0.0 if len(recent) == 1 else float(np.std(value[-1] - value[-2]))
        return Forecast(np.asarray(recent[-1], dtype=float), spread)
    value = _logarithm(recent)
    weights, spread = _fitted(value)
    expected = np.exp(_features(value) @ weights)
    return Forecast(expected * (total / expected.sum(1, keepdims=True)), spread)


def check_counts(windows: Array) -> None:
    """Refuse what cannot be counts of ``[windows, layers, experts]``.

    Raises:
        PlacementError: The form, the size or a value is not possible.
    """
    if windows.ndim != 3 or 0 in windows.shape:
        raise PlacementError(
            f"load has shape {list(windows.shape)}; wanted [windows, layers, experts], none 0"
        )
    if not (np.all(np.isfinite(windows)) and np.all(windows >= 0)):
        raise PlacementError("load has negative or not finite counts; wanted 0 or more")


def _logarithm(windows: FloatArray) -> FloatArray:
    """``[windows, layers, experts]`` about 0 in every layer."""
    value = np.log(windows + _HALF)
    return np.asarray(value - value.mean(2, keepdims=True))


def _features(value: FloatArray) -> FloatArray:
    """``[layers, experts, 2]``: the last value, and the mean of all."""
    return np.stack((value[-1], value.mean(0)), axis=-1)


def _fitted(value: FloatArray) -> tuple[FloatArray, float]:
    """Weights of the features by least squares over the last windows, and what they leave."""
    targets = range(max(2, len(value) - _TARGETS), len(value))
    known = np.concatenate([_features(value[:at]).reshape(-1, 2) for at in targets])
    came = np.concatenate([value[at].reshape(-1) for at in targets])
    square = known.T @ known
    square += np.eye(2) * (_STEADY * np.trace(square) / 2 + np.finfo(float).tiny)
    weights = within_bounds(square, known.T @ came)
    return weights, float(np.std(came - known @ weights))


def within_bounds(square: FloatArray, right: FloatArray) -> FloatArray:
    """``[2]`` weights w of least ``w square w / 2 - right w``, none negative, of sum 1 at most."""
    free = np.asarray(np.linalg.solve(square, right))
    if free.min() >= 0 and free.sum() <= 1:
        return free
    best, least = np.zeros(2), np.inf
    for begin, along in _EDGES:
        part = along @ (right - square @ begin) / (along @ square @ along)
        weights = begin + np.clip(part, 0, 1) * along
        loss = float(weights @ square @ weights / 2 - right @ weights)
        if loss < least:
            best, least = weights, loss
    return best
