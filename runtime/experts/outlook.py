"""What is expected of the next window, and how bad it may get for a placement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.experts.arrays import BoolArray, FloatArray, IntArray
from runtime.experts.link_prices import Suited

_LEAST_SHARED = 0.1  # of what shared experts carry, that stays with them under stress


@dataclass(frozen=True)
class Outlook:
    """The load to place for.

    Attributes:
        load: ``[layers, experts]`` predicted; each layer sums to the number of devices, so
            that the mean level of devices is 1.
        speed: ``[devices]`` of mean 1; with links, what each should take.
        weight: ``[layers]`` how often a layer is called, of mean 1.
        spread: Standard deviation of the logarithm of what comes over what is predicted.
        price: ``[layers, experts, devices]`` level that a token pays for a device beside the
            device's own; None where nothing costs.
        links: Links of the devices; None where there are none.
    """

    load: FloatArray
    speed: FloatArray
    weight: FloatArray
    spread: float = 0.0
    price: FloatArray | None = None
    links: Suited | None = None

    @property
    def pace(self) -> FloatArray:
        """``[devices]`` speed without links."""
        return self.speed if self.links is None else self.links.pace

    @property
    def devices(self) -> int:
        """Number of devices."""
        return len(self.speed)

    def price_of(self, keys: IntArray) -> FloatArray | None:
        """``[replicas]`` level that a token pays for each replica."""
        return None if self.price is None else self.price.reshape(-1)[keys]

    def costs(self, keys: IntArray, amount: FloatArray) -> FloatArray:
        """``[3, layers]`` highest level, slowest link and price of the mean token.

        Args:
            keys: ``[replicas]`` as in ``Placement``.
            amount: ``[replicas]`` load of each.
        """
        layers, experts = self.load.shape
        layer = keys // (self.devices * experts)
        place = layer * self.devices + keys % self.devices
        level = np.bincount(place, amount, minlength=layers * self.devices).reshape(layers, -1)
        found = np.zeros((3, layers))
        found[0] = (level / self.pace).max(1)
        if self.links is not None:
            found[1] = (level * self.links.price).max(1)
        price = self.price_of(keys)
        if price is not None:
            found[2] = np.bincount(layer, price * amount, minlength=layers) / self.devices
        return found

    def stressed(self, keys: IntArray, deviations: float) -> FloatArray:
        """The load with experts that cannot be shared heavier, and the others lighter.

        What experts with one replica put on a device rises by ``deviations`` standard
        deviations of its sum, on all devices at once: where replicas cannot level that,
        they cannot level much of what may come either.

        Args:
            keys: ``[replicas]`` as in ``Placement``.
            deviations: 0 for what is predicted.

        Returns:
            ``[layers, experts]`` of mean level 1.
        """
        layers, experts = self.load.shape
        group = keys // self.devices
        shared = np.bincount(group, minlength=layers * experts) > 1
        alone = ~shared[group]
        place = (group // experts * self.devices + keys % self.devices)[alone]
        flat = self.load.reshape(-1).copy()
        mine = flat[group[alone]]
        deviation = np.sqrt(np.bincount(place, mine * mine, minlength=layers * self.devices))
        part = mine / np.where(deviation > 0, deviation, 1)[place]
        flat[group[alone]] = mine * (1 + deviations * self.spread * part)
        form = (layers, experts)
        return _at_mean_level(flat.reshape(form), shared.reshape(form), self.devices)


def _at_mean_level(load: FloatArray, shared: BoolArray, devices: int) -> FloatArray:
    """Take from what is shared what the rest has too much."""
    fixed = np.where(shared, 0.0, load).sum(1)
    free = np.where(shared, load, 0.0).sum(1)
    left = np.maximum(devices - fixed, _LEAST_SHARED * free)
    scale = np.where(free > 0, left / np.where(free > 0, free, 1), 1.0)
    return np.where(shared, load * scale[:, None], load)
