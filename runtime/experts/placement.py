"""Which replica of which expert is on which device, and what share of its tokens it takes.

Replicas are kept as flat arrays in one order, by (layer, expert, device): layers may hold
different numbers of them, and whatever is asked of a placement is a few calls of NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import BoolArray, FloatArray, IntArray
from runtime.tensors import Array

SHARES_SUM_TO_ONE = 1e-6


@dataclass(frozen=True)
class Placement:
    """Replicas and their shares for every layer.

    Attributes:
        layers: Layers of experts.
        experts: Experts of a layer.
        devices: Devices that hold replicas.
        keys: ``[replicas]``, ascending: ``(layer * experts + expert) * devices + device``.
        share: ``[replicas]`` part of the expert's tokens that the replica computes; the
            shares of an expert sum to one.

    Raises:
        PlacementError: A replica is named twice or lies outside, an expert has none, or
            shares are negative or do not sum to one.
    """

    layers: int
    experts: int
    devices: int
    keys: IntArray
    share: FloatArray

    def __post_init__(self) -> None:
        if self.keys.shape != self.share.shape or self.keys.ndim != 1:
            raise PlacementError(
                f"{self.keys.shape} replicas have {self.share.shape} shares; give one for each"
            )
        end = self.layers * self.experts * self.devices
        if len(self.keys) and not (self.keys[0] >= 0 and self.keys[-1] < end):
            raise PlacementError(
                f"a replica lies outside of {self.layers} layers, {self.experts} experts and "
                f"{self.devices} devices"
            )
        steps = np.diff(self.keys)
        if np.any(steps <= 0):
            place = self._named(int(np.argmax(steps <= 0)) + 1)
            raise PlacementError(f"{place} is named twice or out of order; name a replica once")
        self._check_shares()

    def _check_shares(self) -> None:
        bad = ~(self.share >= 0)
        if np.any(bad):
            at = int(np.argmax(bad))
            raise PlacementError(f"{self._named(at)} has the share {self.share[at]}; wanted 0 to 1")
        sums = np.bincount(self.group, self.share, minlength=self.layers * self.experts)
        off = ~(np.abs(sums - 1) <= SHARES_SUM_TO_ONE)
        if np.any(off):
            layer, expert = divmod(int(np.argmax(off)), self.experts)
            raise PlacementError(
                f"the shares of expert {expert} in layer {layer} sum to "
                f"{sums[np.argmax(off)]:.6g}; wanted 1"
            )

    def _named(self, index: int) -> str:
        return (
            f"expert {self.expert[index]} of layer {self.layer[index]} "
            f"on device {self.device[index]}"
        )

    @cached_property
    def group(self) -> IntArray:
        """``[replicas]`` layer and expert as one number, ascending."""
        return self.keys // self.devices

    @cached_property
    def layer(self) -> IntArray:
        """``[replicas]``."""
        return self.group // self.experts

    @cached_property
    def expert(self) -> IntArray:
        """``[replicas]``."""
        return self.group % self.experts

    @cached_property
    def device(self) -> IntArray:
        """``[replicas]``."""
        return self.keys % self.devices

    @cached_property
    def copies(self) -> IntArray:
        """``[layers, experts]`` replicas of each expert."""
        count = np.bincount(self.group, minlength=self.layers * self.experts)
        return count.reshape(self.layers, self.experts).astype(np.int64)

    @cached_property
    def held(self) -> IntArray:
        """``[devices]`` replicas that a device holds, over all layers."""
        return np.bincount(self.device, minlength=self.devices).astype(np.int64)

    def device_load(self, load: Array) -> FloatArray:
        """Spread load over devices by the shares.

        Args:
            load: ``[layers, experts]`` tokens.

        Returns:
            ``[layers, devices]`` tokens.
        """
        amount = load.reshape(-1)[self.group] * self.share
        place = self.layer * self.devices + self.device
        total = np.bincount(place, amount, minlength=self.layers * self.devices)
        return total.reshape(self.layers, self.devices).astype(float)

    def new_since(self, before: Placement) -> BoolArray:
        """``[replicas]`` true where the replica was not on its device before: a transfer."""
        return ~np.isin(self.keys, before.keys, assume_unique=True)


def placement_from_replicas(
    layers: int,
    experts: int,
    devices: int,
    replicas: tuple[IntArray, IntArray, IntArray],
    weight: FloatArray,
) -> Placement:
    """Make a placement of replicas in any order; those that meet on a device become one.

    Args:
        layers: Layers of experts.
        experts: Experts of a layer.
        devices: Devices.
        replicas: Layer, expert and device, ``[replicas]`` each.
        weight: ``[replicas]``; the shares of an expert are in proportion to it.

    Raises:
        PlacementError: As ``Placement``.
    """
    layer, expert, device = replicas
    keys, place = np.unique((layer * experts + expert) * devices + device, return_inverse=True)
    joined: FloatArray = np.bincount(place, weight, minlength=len(keys)).astype(float)
    return Placement(
        layers, experts, devices, keys, _as_shares(keys // devices, joined, layers * experts)
    )


def _as_shares(group: IntArray, weight: FloatArray, groups: int) -> FloatArray:
    sums = np.bincount(group, weight, minlength=groups)
    return weight / np.where(sums > 0, sums, 1)[group]
