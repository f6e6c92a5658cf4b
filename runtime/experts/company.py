"""Whom experts meet: companions on one device, and devices that a batch goes to."""

from __future__ import annotations

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray
from runtime.experts.placement import Placement
from runtime.tensors import Array


def company(placement: Placement, together: FloatArray) -> FloatArray:
    """``[layers, experts, devices]`` part of an expert's companions that is on a device.

    Args:
        placement: Where experts are, and their shares.
        together: ``[layers, experts, experts]`` how often two are called together.

    Raises:
        PlacementError: ``together`` is of another form.
    """
    form = (placement.layers, placement.experts, placement.devices)
    if together.shape != (*form[:2], form[1]):
        raise PlacementError(
            f"together has shape {list(together.shape)}; wanted {[*form[:2], form[1]]}"
        )
    pairs = together * (1 - np.eye(form[1]))
    pairs = pairs / np.maximum(pairs.sum(2, keepdims=True), 1e-300)
    share = np.zeros(form)
    share.reshape(-1)[placement.keys] = placement.share
    return np.asarray(pairs @ share)


def apart_of(placement: Placement, counts: Array, together: FloatArray) -> float:
    """What tokens pay on average where ``touch`` is 1: the part of companions that is elsewhere.

    Args:
        placement: Where experts are, and their shares.
        counts: ``[layers, experts]`` tokens.
        together: As in ``company``.

    Returns:
        0 to 1; 0 where there are no tokens.
    """
    amount = counts.reshape(-1)[placement.group] * placement.share
    alone = 1 - company(placement, together).reshape(-1)[placement.keys]
    return float(amount @ alone / max(float(amount.sum()), 1e-300))


def touched_by(placement: Placement, counts: Array, calls: int) -> float:
    """Devices that a batch goes to, as expected: mean over layers.

    Each call goes to a device in proportion to the device's load, whatever the others of the
    batch do: that experts are called together is not regarded.

    Args:
        placement: Where experts are, and their shares.
        counts: ``[layers, experts]`` tokens.
        calls: Of experts by the batch in a layer: its tokens times the experts of each.
    """
    load = placement.device_load(counts)
    part = load / np.maximum(load.sum(1, keepdims=True), 1e-300)
    return float(np.mean(np.sum(1 - (1 - part) ** calls, axis=1)))
