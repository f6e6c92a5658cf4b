"""The devices that hold experts: how fast, how much they hold, and which node they stand in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray, IntArray

MOST_SPEEDS_APART = 1e6
"""The fastest device over the slowest, at most."""

_SLOWEST, _FASTEST = 1e-100, 1e100  # so that no sum or ratio of them overflows


@dataclass(frozen=True)
class Devices:
    """Devices side by side.

    Attributes:
        speed: ``[devices]`` tokens a device computes in the time in which a mean one computes
            one; only proportions count.
        memory: ``[devices]`` replicas that a device holds, over all layers.
        node: ``[devices]`` number of the node, from 0.

    Raises:
        PlacementError: There is no device, lengths differ, or a value cannot be.
    """

    speed: FloatArray
    memory: IntArray
    node: IntArray

    def __post_init__(self) -> None:
        lengths = {len(self.speed), len(self.memory), len(self.node)}
        if len(lengths) != 1 or 0 in lengths:
            raise PlacementError(
                f"there are {len(self.speed)} speeds, {len(self.memory)} memories and "
                f"{len(self.node)} nodes; give one of each for every device, of one at least"
            )
        for what, good in (
            (
                f"speed above 0, of {_SLOWEST:g} to {_FASTEST:g}",
                (self.speed >= _SLOWEST) & (self.speed <= _FASTEST),
            ),
            ("memory of 0 replicas or more", self.memory >= 0),
            ("node numbered from 0", self.node >= 0),
        ):
            if not np.all(good):
                raise PlacementError(f"device {int(np.argmin(good))} wants a {what}")
        if self.speed.max() > MOST_SPEEDS_APART * self.speed.min():
            raise PlacementError(
                f"the fastest device has more than {MOST_SPEEDS_APART:,.0f} times the speed of "
                "the slowest; leave slow ones out"
            )

    @property
    def count(self) -> int:
        """Number of devices."""
        return len(self.speed)

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return int(self.node.max()) + 1

    @property
    def pace(self) -> FloatArray:
        """``[devices]`` speed in units of the mean one."""
        return np.asarray(self.speed / self.speed.mean())

    @property
    def equal(self) -> bool:
        """Whether all are as fast."""
        return bool(np.all(self.speed == self.speed[0]))


def equal_devices(count: int, memory: int, nodes: int = 1) -> Devices:
    """Devices that differ in nothing but their node.

    Args:
        count: Number of devices, a multiple of ``nodes``.
        memory: Replicas that each holds, over all layers.
        nodes: Number of nodes, filled one after the other.

    Raises:
        PlacementError: There is no device, or they do not divide by nodes.
    """
    if count < 1 or nodes < 1 or count % nodes:
        raise PlacementError(f"{count} devices do not make {nodes} equal nodes; give a multiple")
    node = np.repeat(np.arange(nodes), count // nodes)
    return Devices(np.ones(count), np.full(count, memory, dtype=np.int64), node.astype(np.int64))
