"""Links as a part of the objective: what they add to a plan, and how far devices suit them.

In a layer tokens are sent, then computed: the slowest link decides over the first, the fullest
device over the second. Both are times, and both are reckoned in the time that a device takes
for the mean level. Where loads can be divided at will, the least sum of the two has a closed
form: with ``r`` the ratio of the two times, a device takes ``min(pace, r / price)`` of what it
might, and the sum is least at one of the ratios where a device comes to be held back by its
link. Devices are then taken as that much slower, and everything that levels unequal devices
serves links as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import BoolArray, FloatArray
from runtime.experts.links import LinkCosts

TOKEN_US = 0.18
"""One token through one expert on a device of mean speed, see ``model.py``."""

MOST_US = 1e9
"""A token on its way or through an expert, in microseconds, at most."""

LEAST_TOKEN_US = 1e-9
"""A token through an expert, in microseconds, at least."""

_LEAST_PART = 0.05  # of its pace that a device keeps, so that the solver's steps stay long


@dataclass(frozen=True)
class Links:
    """What it takes to send a token from where it is to a device, beside computing it.

    Tokens of every expert come from the sources in proportion to ``weight``, so that a token
    on a device costs the mean over sources.

    Attributes:
        us: ``[sources, devices]`` microseconds a token.
        weight: ``[sources]`` tokens that come from each, in proportion; as many by default.
        token_us: One token through one expert on a device of mean speed, in microseconds.

    Raises:
        PlacementError: A value cannot be; the text names it.
    """

    us: FloatArray
    weight: FloatArray | None = None
    token_us: float = TOKEN_US

    def __post_init__(self) -> None:
        if self.us.ndim != 2 or 0 in self.us.shape:
            raise PlacementError(
                f"links: the shape is {list(self.us.shape)}; wanted [sources, devices], none 0"
            )
        for bad, what in (
            (np.isnan(self.us), "is not a number; wanted microseconds a token"),
            (self.us < 0, "is negative; wanted microseconds a token, 0 or more"),
            (np.isinf(self.us), "is without end: the device cannot be reached; leave it out"),
            (self.us > MOST_US, f"is above {MOST_US:g} microseconds a token"),
        ):
            if np.any(bad):
                raise PlacementError(f"links: {_first(bad)} {what}")
        if not LEAST_TOKEN_US <= self.token_us <= MOST_US:
            raise PlacementError(
                f"token_us is {self.token_us}; give {LEAST_TOKEN_US:g} to {MOST_US:g}"
            )
        self._check_weight()

    def _check_weight(self) -> None:
        if self.weight is None:
            return
        if self.weight.shape != self.us.shape[:1]:
            raise PlacementError(
                f"links: weights have shape {list(self.weight.shape)}; "
                f"wanted one for each of {len(self.us)} sources"
            )
        good = np.isfinite(self.weight) & (self.weight >= 0)
        if not (np.all(good) and self.weight.max() > 0):
            raise PlacementError(
                "links: weights of sources are negative, not finite or all 0; wanted the tokens "
                "that come from each"
            )

    @classmethod
    def from_costs(cls, costs: LinkCosts, token_us: float = TOKEN_US) -> Links:
        """What was measured; sources weigh as many tokens as they sent.

        Raises:
            PlacementError: Between a source and a device nothing was sent.
        """
        us = costs.us_per_token
        if np.any(np.isnan(us)):
            raise PlacementError(
                f"links: {_first(np.isnan(us))} is unknown, since nothing was sent; measure it"
            )
        with np.errstate(over="ignore"):
            weight = costs.tokens.sum(1)
        return cls(us, weight, token_us)

    def us_to(self, devices: int) -> FloatArray:
        """``[devices]`` microseconds a token, mean over sources.

        Raises:
            PlacementError: They are for another number of devices.
        """
        if self.us.shape[1] != devices:
            raise PlacementError(
                f"links: the shape is {list(self.us.shape)}, for {self.us.shape[1]} devices; "
                f"there are {devices}"
            )
        weight = None if self.weight is None else self.weight / self.weight.max()
        return np.asarray(np.average(self.us, axis=0, weights=weight))


@dataclass(frozen=True)
class Suited:
    """Devices with their links.

    Attributes:
        pace: ``[devices]`` speed of mean 1, without links.
        price: ``[devices]`` what a token takes on the way, in the time that a device of mean
            speed computes one.
        speed: ``[devices]`` of mean 1: what each should take.
        least: Fullest device and slowest link together, in mean levels, at best.
    """

    pace: FloatArray
    price: FloatArray
    speed: FloatArray
    least: float

    @property
    def least_link(self) -> float:
        """The slowest link alone, at best."""
        least = self.price.min()
        return float(len(self.price) * least / np.sum(least / self.price)) if least > 0 else 0.0

    @property
    def held_back(self) -> bool:
        """Whether links change what a device should take."""
        return bool(np.any(self.speed != self.pace))


def suited(links: Links, pace: FloatArray) -> Suited:
    """How much each device should take, with regard to its link.

    Args:
        links: Of as many devices.
        pace: ``[devices]`` speed of mean 1.

    Raises:
        PlacementError: The links are for another number of devices.
    """
    price = links.us_to(len(pace)) / links.token_us
    ratio = np.unique(price * pace)
    parts = _taken(pace, price, ratio[:, None])  # [ratios, devices]
    time = len(pace) * (1 + ratio) / np.maximum(parts.sum(1), 1e-300)
    best = int(time.argmin())
    part = np.maximum(parts[best], _LEAST_PART * pace)
    speed = pace if np.all(part == pace) else part / part.mean()
    return Suited(pace, price, speed, float(time[best]))


def _taken(pace: FloatArray, price: FloatArray, ratio: FloatArray) -> FloatArray:
    held = price * pace > ratio * (1 + 1e-12)
    return np.where(held, ratio / np.where(held, price, 1.0), pace)


def _first(bad: BoolArray) -> str:
    source, device = (int(each) for each in np.argwhere(bad)[0])
    return f"source {source} to device {device}"
