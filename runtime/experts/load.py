"""How often each expert is called: counts over requests, window, decay, and who is called together.

Pure NumPy; nothing of a server comes in. One update takes O(layers x experts) a request. Counts
are sums over tokens (``expert_load``), but for ``together``, which counts requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from runtime.errors import InvalidInput
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.links import LinkCosts
from runtime.tensors import Array

MOST_PAIRS = 2**24
"""Above so many pairs of experts, over all layers, nobody counts who is called together."""

Pair: TypeAlias = tuple[int, int, float]
"""Two experts of a layer, the lower number first, and requests in which both were called."""


@dataclass(frozen=True)
class Horizon:
    """How far back it is remembered.

    Attributes:
        requests: Of the sliding window, at most; it slides by ``requests / parts`` at a time.
        parts: Of the window.
        half_life: Requests after which a token counts half in ``decayed``.

    Raises:
        InvalidInput: The window does not divide by its parts, or a value cannot be.
    """

    requests: int = 4096
    parts: int = 8
    half_life: float = 1024.0

    def __post_init__(self) -> None:
        if self.parts < 2 or self.requests < self.parts or self.requests % self.parts:
            raise InvalidInput(
                f"the window has {self.requests} requests in {self.parts} parts; "
                "give 2 parts or more, and a multiple of them"
            )
        if not (self.half_life > 0 and np.isfinite(self.half_life)):
            raise InvalidInput(f"half_life is {self.half_life}; give requests, more than 0")


class ExpertLoad:
    """The load of one model.

    Attributes:
        requests: Counted in all.
        total: ``[layers, experts]`` tokens of all of them.
        decayed: ``[layers, experts]`` tokens, each weighted by ``0.5 ** (age / half_life)``,
            its age in requests.
        links: What it cost to send tokens to devices.
    """

    def __init__(
        self, layers: int, experts: int, horizon: Horizon | None = None, seed: int | None = None
    ) -> None:
        """Begin with nothing counted.

        Args:
            layers: Of the mixture.
            experts: Of each layer.
            horizon: How far back it is remembered.
            seed: Of the draws behind ``together``.
        """
        self.horizon = horizon or Horizon()
        self.requests = 0
        self.total: IntArray = np.zeros((layers, experts), np.int64)
        self.decayed: FloatArray = np.zeros((layers, experts))
        self.links = LinkCosts()
        self._ring: IntArray = np.zeros((self.horizon.parts, layers, experts), np.int64)
        self._random = np.random.default_rng(seed)
        pairs = layers * experts * experts
        self._together: IntArray | None = (
            np.zeros((layers, experts, experts), np.int64) if pairs <= MOST_PAIRS else None
        )

    def add(self, loads: Array) -> None:
        """Count requests, in their order.

        Args:
            loads: ``[requests, layers, experts]`` tokens, as ``by_request`` gives them.

        Raises:
            InvalidInput: Another shape.
        """
        if loads.ndim != 3 or loads.shape[1:] != self.total.shape:
            raise InvalidInput(
                f"expert_load has shape {list(loads.shape)}; "
                f"wanted [requests, {self.total.shape[0]}, {self.total.shape[1]}]"
            )
        loads = loads.astype(np.int64, copy=False)
        self.total += loads.sum(0)
        self._slide(loads)
        age = np.arange(len(loads) - 1, -1, -1)
        weights = np.exp2(-age / self.horizon.half_life)
        self.decayed *= np.exp2(-len(loads) / self.horizon.half_life)
        self.decayed += np.tensordot(weights, loads, 1)
        self._count_together(loads)
        self.requests += len(loads)

    @property
    def window(self) -> IntArray:
        """``[layers, experts]`` tokens of the last ``window_requests`` requests."""
        return np.asarray(self._ring.sum(0))

    @property
    def window_requests(self) -> int:
        """Requests in the window: all at first, then between all parts but one and all parts."""
        size = self._part_size
        return min(self.requests, self.horizon.requests - size + self.requests % size)

    @property
    def parts(self) -> IntArray:
        """``[parts, layers, experts]`` tokens of whole parts of the window, the oldest first.

        They are what ``plan`` and ``forecast`` take as windows.
        """
        whole = min(self.requests // self._part_size, self.horizon.parts - 1)
        order = (self._at - np.arange(whole, 0, -1)) % self.horizon.parts
        return self._ring[order]

    @property
    def together(self) -> FloatArray | None:
        """``[layers, experts, experts]`` requests in which both were called, estimated.

        Of each request and layer one called expert is drawn, and all called with it are counted
        in its row, times the number called: right in the mean, and O(layers x experts) where
        counting every pair is O(layers x experts^2). None above ``MOST_PAIRS``.
        """
        if self._together is None:
            return None
        return np.asarray((self._together + self._together.transpose(0, 2, 1)) / 2)

    def strongest_pairs(self, most: int) -> list[list[Pair]] | None:
        """By layer: the pairs in most requests, as ``together`` estimates them.

        Takes tens of milliseconds for dozens of layers of hundreds of experts.

        Args:
            most: Of a layer.

        Returns:
            The strongest first, of equals that of the lower numbers; pairs without a request
            are left out. None where ``together`` is.
        """
        if self._together is None:
            return None
        one, other = np.triu_indices(self.total.shape[1], 1)
        return [_strongest(drawn, one, other, most) for drawn in self._together]

    @property
    def _part_size(self) -> int:
        return self.horizon.requests // self.horizon.parts

    @property
    def _at(self) -> int:
        """The part that is being filled."""
        return self.requests // self._part_size % self.horizon.parts

    def _slide(self, loads: IntArray) -> None:
        size, parts = self._part_size, self.horizon.parts
        done, end = self.requests, self.requests + len(loads)
        for begin in range(done - done % size, end, size):
            at = begin // size % parts
            if begin >= done:
                self._ring[at] = 0
            self._ring[at] += loads[max(begin - done, 0) : begin + size - done].sum(0)
        if end % size == 0:
            self._ring[end // size % parts] = 0

    def _count_together(self, loads: IntArray) -> None:
        if self._together is None:
            return
        experts = loads.shape[2]
        called = loads > 0
        count = called.sum(2)  # [requests, layers]
        drawn = (self._random.random(count.shape) * count).astype(np.int64)
        one = (called.cumsum(2) > drawn[..., None]).argmax(2)  # [requests, layers]
        request, layer, expert = np.nonzero(called)
        place = (layer * experts + one[request, layer]) * experts + expert
        np.add.at(self._together.reshape(-1), place, count[request, layer])

    def to_arrays(self) -> dict[str, Array]:
        """A copy of everything that is to be kept."""
        arrays: dict[str, Array] = {
            "requests": np.array(self.requests), "total": self.total.copy(),
            "decayed": self.decayed.copy(), "ring": self._ring.copy(), **self.links.to_arrays(),
        }  # fmt: skip
        if self._together is not None:
            arrays["together"] = self._together.copy()
        return arrays

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go on from what ``to_arrays`` gave; nothing is changed where that does not fit.

        Raises:
            InvalidInput: An array is missing, or of another model or horizon.
        """
        own = self.to_arrays()
        for name, mine in own.items():
            kept = arrays.get(name)
            free = name in LinkCosts.NAMES  # there may be other devices by now
            if kept is None or kept.dtype != mine.dtype or (kept.shape != mine.shape and not free):
                found = "nothing" if kept is None else f"{kept.dtype} {list(kept.shape)}"
                raise InvalidInput(f"{name} is {found}; wanted {mine.dtype} {list(mine.shape)}")
        links = LinkCosts.from_arrays(arrays)
        self.links, self.requests = links, int(arrays["requests"])
        self.total, self.decayed = arrays["total"].copy(), arrays["decayed"].copy()
        self._ring = arrays["ring"].copy()
        if self._together is not None:
            self._together = arrays["together"].copy()


def _strongest(drawn: IntArray, one: IntArray, other: IntArray, most: int) -> list[Pair]:
    """Of the pairs ``one[i] < other[i]`` of a layer; see ``ExpertLoad.strongest_pairs``."""
    experts = len(drawn)
    twice = drawn.take(one * experts + other) + drawn.take(other * experts + one)
    least = 1
    if len(twice) > most:
        # Of the negative ones: most pairs are 0, which NumPy is slow to leave at the low end.
        least = max(least, -int(np.partition(-twice, most - 1)[most - 1]))
    at = np.flatnonzero(twice >= least)
    at = at[np.argsort(-twice[at], kind="stable")][:most]
    return list(zip(one[at].tolist(), other[at].tolist(), (twice[at] / 2).tolist(), strict=True))


def by_request(loads: Sequence[Array], rows: Sequence[int]) -> IntArray:
    """Sum the rows of each request.

    Args:
        loads: Of calls, ``[batch, layers, experts]`` tokens each.
        rows: Of each request of all calls, one or more.

    Returns:
        ``[requests, layers, experts]``.

    Raises:
        InvalidInput: The loads have not as many rows, or differ in layers or experts.
    """
    try:
        load = np.concatenate(loads)
    except ValueError as error:
        raise InvalidInput(f"the loads do not fit together: {error}") from error
    if load.ndim != 3 or sum(rows) != len(load) or min(rows) < 1:
        raise InvalidInput(
            f"expert_load has shape {list(load.shape)} after {len(rows)} requests of "
            f"{sum(rows)} rows; wanted [batch, layers, experts]"
        )
    if len(rows) == len(load):
        return load.astype(np.int64)
    starts = np.concatenate(([0], np.cumsum(rows[:-1]))).astype(np.intp)
    return np.asarray(np.add.reduceat(load, starts, axis=0, dtype=np.int64))


def evenness(counts: Array) -> tuple[float, float] | None:
    """Balance (1 - standard deviation over mean) and highest over mean of one layer's experts.

    Args:
        counts: ``[experts]`` tokens.

    Returns:
        None where nothing was called.
    """
    mean = float(counts.mean())
    if not mean:
        return None
    return 1 - float(counts.std()) / mean, float(counts.max()) / mean
