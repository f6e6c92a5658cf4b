"""Traces drawn by a seed: skew as published, drift, and jumps of topic."""

from __future__ import annotations

import math

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.trace import Trace
from runtime.tensors import Array

TOKENS = 262_144
"""Tokens of a layer in a window: 32,768 tokens sent to 8 experts each."""


def zipf_popularity(
    rng: np.random.Generator, layers: int, experts: int, power: float = 1.0
) -> FloatArray:
    """``[layers, experts]`` one over the rank to a power, ranks at random in each layer."""
    ranks = np.arange(1, experts + 1, dtype=float) ** -power
    return np.stack([rng.permutation(ranks) for _ in range(layers)])


def still(
    seed: int, windows: int, popularity: FloatArray, *, tokens: int = TOKENS, name: str = "still"
) -> Trace:
    """Counts drawn from a popularity that stays.

    Args:
        seed: Of the draw.
        windows: To draw.
        popularity: ``[layers, experts]`` in any unit.
        tokens: Of a layer in a window.
        name: Of the trace.
    """
    rng = np.random.default_rng(seed)
    counts = [_counted(rng, popularity, tokens) for _ in range(windows)]
    return Trace(np.stack(counts), name, top_k=min(8, popularity.shape[1]))


def drifting(
    seed: int,
    windows: int,
    form: tuple[int, int],
    *,
    keeps: float,
    sigma: float = 1.0,
    base: FloatArray | None = None,
    tokens: int = TOKENS,
) -> Trace:
    """Log-popularity as a first-order autoregression about a base, counts drawn from it.

    Args:
        seed: Of the draw.
        windows: To draw.
        form: Layers and experts.
        keeps: What a window keeps of the one before, 0 to 1.
        sigma: Standard deviation of the logarithm about the base, in every window.
        base: ``[layers, experts]`` logarithm that stays; 0 by default.
        tokens: Of a layer in a window.

    Raises:
        PlacementError: ``keeps`` is not from 0 to 1.
    """
    if not 0 <= keeps <= 1:
        raise PlacementError(f"a window keeps {keeps} of the one before; give 0 to 1")
    rng = np.random.default_rng(seed)
    stays = np.zeros(form) if base is None else base
    value = sigma * rng.standard_normal(form)
    counts = []
    for _ in range(windows):
        counts.append(_counted(rng, np.exp(stays + value), tokens))
        value = keeps * value + math.sqrt(1 - keeps**2) * sigma * rng.standard_normal(form)
    return Trace(np.stack(counts), f"drift {keeps}", top_k=min(8, form[1]))


def jumping(
    seed: int,
    windows: int,
    form: tuple[int, int],
    *,
    gini: float,
    topics: int = 4,
    stays: float = 0.8,
    tokens: int = TOKENS,
) -> Trace:
    """Topics with a popularity each; a window keeps its topic or jumps to another.

    Published Gini coefficients of expert load on real text are 0.105 to 0.15 for two
    architectures and above 0.24 for two others (arXiv 2605.20982); popularity shifts by task
    (arXiv 2604.23150).

    Args:
        seed: Of the draw.
        windows: To draw.
        form: Layers and experts.
        gini: Coefficient of each topic's popularity, 0 to below 1.
        topics: Number of topics.
        stays: Probability that the next window has the same topic.
        tokens: Of a layer in a window.
    """
    rng = np.random.default_rng(seed)
    sigma = sigma_from_gini(gini)
    popularity = np.exp(sigma * rng.standard_normal((topics, *form)))
    topic, counts = int(rng.integers(topics)), []
    for _ in range(windows):
        counts.append(_counted(rng, popularity[topic], tokens))
        if topics > 1 and rng.random() >= stays:
            topic = (topic + int(rng.integers(1, topics))) % topics
    return Trace(np.stack(counts), f"topics, Gini {gini}", top_k=min(8, form[1]))


def sigma_from_gini(gini: float) -> float:
    """The spread of a log-normal law of so much inequality: its Gini is ``erf(sigma / 2)``.

    Raises:
        PlacementError: It is not from 0 to below 1.
    """
    if not 0 <= gini < 1:
        raise PlacementError(f"a Gini coefficient of {gini} cannot be; give 0 to below 1")
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if math.erf(middle / 2) < gini else (low, middle)
    return high


def gini_of(load: Array) -> float:
    """Mean Gini coefficient of the layers of ``[..., layers, experts]``."""
    rising = np.sort(load.astype(float), axis=-1)
    count = rising.shape[-1]
    weight = 2 * np.arange(1, count + 1) - count - 1
    total = rising.sum(-1)
    each = (rising * weight).sum(-1) / (count * np.where(total > 0, total, 1))
    return float(each.mean())


def _counted(rng: np.random.Generator, popularity: FloatArray, tokens: int) -> IntArray:
    part = popularity / popularity.sum(1, keepdims=True)
    return np.asarray(rng.multinomial(tokens, part), dtype=np.int64)
