"""Two policies without a search: every expert once, and the source's rule of thresholds."""

from __future__ import annotations

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.placement import Placement, placement_from_replicas
from runtime.tensors import Array

LOAD_PART, COMMUNICATION_PART = 0.7, 0.3
THRESHOLDS = ((0.15, 3), (0.1, 2), (0.05, 1))
"""Above the value an expert gets so many replicas more (OmniPlacement's simple policy)."""


def place_once(layers: int, experts: int, devices: int) -> Placement:
    """Every expert once, side by side, as a server begins.

    Args:
        layers: Layers of experts.
        experts: Experts of a layer.
        devices: Devices.
    """
    layer = np.repeat(np.arange(layers), experts)
    expert = np.tile(np.arange(experts), layers)
    replicas = (layer, expert, expert * devices // experts)
    return placement_from_replicas(layers, experts, devices, replicas, np.ones(layers * experts))


def place_by_threshold(
    load: Array, devices: int, slots: int, communication: FloatArray | None = None
) -> Placement:
    """Extra replicas for experts whose target is above a threshold.

    The target is 0.7 of the part of the load plus 0.3 of the part of the communication. Where
    the replicas do not fit, the expert with the most gives one back until they do. Replicas
    go one by one to the device with the least load that has none of the expert.

    Args:
        load: ``[layers, experts]`` tokens of the window to place for.
        devices: Equal devices.
        slots: Of one layer on all devices.
        communication: ``[layers, experts]`` cost; in proportion to the load by default.

    Raises:
        PlacementError: There are fewer slots than experts.
    """
    layers, experts = load.shape
    if slots < experts:
        raise PlacementError(f"{slots} slots do not hold {experts} experts; give {experts} or more")
    cost = load if communication is None else communication
    target = LOAD_PART * _parts(load) + COMMUNICATION_PART * _parts(cost)
    extra = np.zeros((layers, experts), dtype=np.int64)
    for threshold, count in reversed(THRESHOLDS):
        extra[target > threshold] = count
    extra = np.minimum(extra, devices - 1)
    row = np.arange(layers)
    for _ in range(int(extra.sum(1).max())):
        over = row[extra.sum(1) + experts > slots]
        extra[over, extra[over].argmax(1)] -= 1
    return _spread(load, extra + 1, devices)


def _parts(value: Array) -> FloatArray:
    total = value.sum(1, keepdims=True)
    return np.asarray(value / np.where(total > 0, total, 1))


def _spread(load: Array, copies: IntArray, devices: int) -> Placement:
    layers, experts = load.shape
    each = load / copies
    found: list[tuple[int, int, int]] = []
    for layer in range(layers):
        first = np.arange(experts) * devices // experts
        level = np.bincount(first, each[layer], minlength=devices)
        found.extend((layer, expert, int(to)) for expert, to in enumerate(first))
        for expert in np.flatnonzero(copies[layer] > 1):
            free = np.arange(devices) != first[expert]
            for _ in range(int(copies[layer, expert]) - 1):
                to = int(np.where(free, level, np.inf).argmin())
                free[to] = False
                level[to] += each[layer, expert]
                found.append((layer, int(expert), to))
    at = np.array(found, dtype=np.int64).T
    return placement_from_replicas(
        layers, experts, devices, (at[0], at[1], at[2]), np.ones(len(found))
    )
