"""Which replicas to add: for the hottest devices, and for tokens that pay most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.outlook import Outlook
from runtime.experts.search import Search


@dataclass
class _Scene:
    """Replicas with what they compute, while moves are tried out on them.

    Attributes:
        outlook: Speeds, weights and prices.
        group: ``[replicas]`` layer and expert as one number.
        device: ``[replicas]``.
        layer: ``[replicas]``.
        first: ``[layers]`` the first replica of each layer.
        left: ``[replicas]`` amounts.
        level: ``[layers, devices]``.
    """

    outlook: Outlook
    group: IntArray
    device: IntArray
    layer: IntArray
    first: IntArray
    left: FloatArray
    level: FloatArray

    def best(self, score: FloatArray) -> IntArray:
        """``[layers]`` the replica of the highest score."""
        at = np.flatnonzero(score == np.maximum.reduceat(score, self.first)[self.layer])
        return np.asarray(at[np.unique(self.layer[at], return_index=True)[1]])

    def cost(self, group: IntArray) -> FloatArray:
        """``[layers, devices]`` level and price of a token of one expert a layer."""
        if self.outlook.price is None:
            return self.level.copy()
        layers, experts = self.outlook.load.shape
        return np.asarray(self.level + self.outlook.price[np.arange(layers), group % experts])

    def shift(self, at: IntArray, to: IntArray, load: FloatArray) -> None:
        """Go on as if so much of each replica were computed on another device."""
        row, speed = np.arange(len(at)), self.outlook.speed
        source = self.device[at]
        self.left[at] -= load
        self.level[row, source] -= load / speed[source]
        self.level[row, to] += load / speed[to]


def proposals(keys: IntArray, amount: FloatArray, outlook: Outlook, search: Search) -> IntArray:
    """Replicas whose addition promises most.

    Args:
        keys: ``[replicas]`` as in ``Placement``.
        amount: ``[replicas]`` what each computes.
        outlook: Speeds, weights and prices.
        search: How many for each layer, and the least gain.

    Returns:
        Keys, the best first.
    """
    scene = _scene(keys, amount, outlook)
    added, gains = [], []
    for _ in range(search.proposals):
        for key, gain in (_cooled(scene), *([] if outlook.price is None else [_cheaper(scene)])):
            added.append(key)
            gains.append(gain * outlook.weight)
    gain, key = np.concatenate(gains), np.concatenate(added)
    order = np.argsort(-gain, kind="stable")
    order = order[gain[order] > search.least_gain]
    kept, index = np.unique(key[order], return_index=True)
    return np.asarray(kept[np.argsort(index)])


def _scene(keys: IntArray, amount: FloatArray, outlook: Outlook) -> _Scene:
    layers, experts = outlook.load.shape
    devices = outlook.devices
    group, device = keys // devices, keys % devices
    layer = group // experts
    first = np.searchsorted(keys, np.arange(layers) * (experts * devices))
    total = np.bincount(layer * devices + device, amount, minlength=layers * devices)
    level = total.reshape(layers, devices) / outlook.speed
    return _Scene(outlook, group, device, layer, first, amount.copy(), level)


def _cooled(scene: _Scene) -> tuple[IntArray, FloatArray]:
    """Share the largest expert of the hottest device of each layer: key and load taken."""
    hot = scene.level.argmax(1)
    at = scene.best(np.where(scene.device == hot[scene.layer], scene.left, -1.0))
    to, load = _elsewhere(scene, at)
    scene.shift(at, to, load)
    return scene.group[at] * scene.outlook.devices + to, load


def _cheaper(scene: _Scene) -> tuple[IntArray, FloatArray]:
    """Share where tokens pay most in each layer: key and what is saved."""
    assert scene.outlook.price is not None
    price, devices = scene.outlook.price.reshape(-1), scene.outlook.devices
    paid = price[scene.group * devices + scene.device]
    at = scene.best(scene.left * paid)
    to, load = _elsewhere(scene, at)
    key = scene.group[at] * devices + to
    scene.shift(at, to, load)
    return key, load * np.maximum(paid[at] - price[key], 0) / devices


def _elsewhere(scene: _Scene, at: IntArray) -> tuple[IntArray, FloatArray]:
    """Where one more replica of each layer's expert costs least, and the load it takes."""
    row, speed = np.arange(len(at)), scene.outlook.speed
    source, group = scene.device[at], scene.group[at]
    cost = scene.cost(group)
    here = cost[row, source]
    own = np.flatnonzero(scene.group == group[scene.layer])
    cost[scene.layer[own], scene.device[own]] = np.inf
    to = cost.argmin(1)
    between = (here - cost[row, to]) / (1 / speed[source] + 1 / speed[to])
    return to, np.clip(between, 0, scene.left[at])
