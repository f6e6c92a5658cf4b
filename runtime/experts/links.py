"""What it costs to send tokens from where they are to the devices that compute them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from runtime.errors import InvalidInput
from runtime.experts.arrays import FloatArray
from runtime.experts.placement import Placement
from runtime.tensors import Array


class LinkCosts:
    """Tokens and seconds by (source, device), as far as anybody measured them.

    Attributes:
        tokens: ``[sources, devices]`` sent.
        seconds: ``[sources, devices]`` that it took.
    """

    NAMES: ClassVar = ("link_tokens", "link_seconds")

    def __init__(self, sources: int = 0, devices: int = 0) -> None:
        self.tokens: FloatArray = np.zeros((sources, devices))
        self.seconds: FloatArray = np.zeros((sources, devices))

    def add(self, tokens: Array, seconds: Array) -> None:
        """Count what was sent; new sources and devices come in with their first tokens.

        Args:
            tokens: ``[sources, devices]``.
            seconds: ``[sources, devices]``.

        Raises:
            InvalidInput: Shapes differ, or a value is negative or not finite.
        """
        _check(tokens, seconds)
        shape = tuple(np.maximum(self.tokens.shape, tokens.shape))
        for name, more in (("tokens", tokens), ("seconds", seconds)):
            grown = np.zeros(shape)
            for part in (getattr(self, name), more):
                grown[: part.shape[0], : part.shape[1]] += part
            setattr(self, name, grown)

    @property
    def us_per_token(self) -> FloatArray:
        """``[sources, devices]`` microseconds; NaN where nothing was sent."""
        sent = self.tokens > 0
        mean = np.full(self.tokens.shape, np.nan)
        with np.errstate(over="ignore"):  # infinite: who takes the costs refuses them
            mean[sent] = self.seconds[sent] / self.tokens[sent] * 1e6
        return mean

    def to_arrays(self) -> dict[str, Array]:
        """A copy, to be kept."""
        return dict(zip(self.NAMES, (self.tokens.copy(), self.seconds.copy()), strict=True))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> LinkCosts:
        """What ``to_arrays`` gave.

        Raises:
            InvalidInput: It cannot have been that.
        """
        tokens, seconds = (arrays[name] for name in cls.NAMES)
        _check(tokens, seconds)
        made = cls()
        made.add(tokens, seconds)
        return made


def tokens_between(load: Array, placement: Placement) -> FloatArray:
    """``[sources, devices]`` tokens that a placement sends.

    Args:
        load: ``[sources, layers, experts]`` tokens by where they are.
        placement: Where the experts are, and their shares.

    Raises:
        InvalidInput: The load is of other layers or experts.
    """
    if load.ndim != 3 or load.shape[1:] != (placement.layers, placement.experts):
        raise InvalidInput(
            f"load has shape {list(load.shape)}; "
            f"wanted [sources, {placement.layers}, {placement.experts}]"
        )
    amount = load.reshape(len(load), -1)[:, placement.group] * placement.share
    sent = np.zeros((len(load), placement.devices))
    for source, row in enumerate(amount):
        sent[source] = np.bincount(placement.device, row, minlength=placement.devices)
    return sent


def _check(tokens: Array, seconds: Array) -> None:
    good = tokens.ndim == 2 and tokens.shape == seconds.shape
    if not (good and all(np.all(np.isfinite(a) & (a >= 0)) for a in (tokens, seconds))):
        raise InvalidInput(
            f"tokens {list(tokens.shape)} and seconds {list(seconds.shape)} are no costs; "
            "wanted [sources, devices] each, finite and none negative"
        )
