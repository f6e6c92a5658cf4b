"""What a placement is judged by, beside even levels, and what limits it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.company import company
from runtime.experts.devices import Devices
from runtime.experts.link_prices import Links
from runtime.experts.placement import Placement

MOST_PRICE = 1e6
"""In mean levels; more than any level can be."""


@dataclass(frozen=True)
class Terms:
    """Prices in units of the mean level of devices, and what they are reckoned from.

    The cost of a placement is the highest level of each layer, weighted by how often the
    layer is called, plus the slowest link of each in the same unit, plus what tokens pay for
    devices, plus what replicas cost.

    Attributes:
        off_home: What a token pays for a device outside of its expert's home node.
        touch: What a token pays for a device that holds none of the experts that are called
            together with its own.
        memory: What one replica of every expert costs.
        replica_bytes: Weights of one replica.
        home: ``[layers, experts]`` home node; experts side by side by default.
        together: ``[layers, experts, experts]`` how often two experts are called together;
            needed where ``touch`` is above 0.
        links: What tokens take on their way to devices; nothing by default.

    Raises:
        PlacementError: A price is negative or above 1e6, or ``touch`` lacks what it is
            reckoned from.
    """

    off_home: float = 0.0
    touch: float = 0.0
    memory: float = 0.0
    replica_bytes: int = 0
    home: IntArray | None = None
    together: FloatArray | None = None
    links: Links | None = None

    def __post_init__(self) -> None:
        for name in ("off_home", "touch", "memory"):
            if not 0 <= getattr(self, name) <= MOST_PRICE:
                raise PlacementError(
                    f"{name} is {getattr(self, name)}; give 0 or more, {MOST_PRICE:g} at most"
                )
        if not 0 <= self.replica_bytes < float("inf"):
            raise PlacementError(f"replica_bytes is {self.replica_bytes}; give 0 or more")
        if self.touch and self.together is None:
            raise PlacementError("touch has a price but nothing says which experts go together")

    def homes(self, layers: int, experts: int, nodes: int) -> IntArray:
        """``[layers, experts]`` home node of each expert."""
        if self.home is None:
            return np.tile(np.arange(experts) * nodes // experts, (layers, 1)).astype(np.int64)
        if self.home.shape != (layers, experts):
            raise PlacementError(
                f"home has shape {list(self.home.shape)}; wanted {[layers, experts]}"
            )
        return self.home

    def prices(
        self, placement: Placement | None, load: FloatArray, devices: Devices
    ) -> FloatArray | None:
        """What a token pays for each device.

        Args:
            placement: Where experts are now; ``touch`` is reckoned from it.
            load: ``[layers, experts]``.
            devices: The devices.

        Returns:
            ``[layers, experts, devices]``, or None where all are free.
        """
        layers, experts = load.shape
        price = None
        if self.off_home and devices.nodes > 1:
            home = self.homes(layers, experts, devices.nodes)
            price = self.off_home * (home[:, :, None] != devices.node).astype(float)
        if self.touch and placement is not None:
            assert self.together is not None
            alone = self.touch * (1 - company(placement, self.together))
            price = alone if price is None else price + alone
        return price


FREE = Terms()
"""Levels alone count."""


@dataclass(frozen=True)
class Cost:
    """What a placement costs under a load.

    Attributes:
        compute: Highest level of a layer, weighted mean over layers; 1 at best.
        communication: What a token pays for its device on average.
        memory: What replicas cost.
        links: What the slowest link of a layer takes, weighted mean over layers.
    """

    compute: float
    communication: float
    memory: float
    links: float = 0.0

    @property
    def total(self) -> float:
        """The objective."""
        return self.compute + self.links + self.communication + self.memory
