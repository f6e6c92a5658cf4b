"""Whether what is asked for can be had; if not, which constraint breaks."""

from __future__ import annotations

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray
from runtime.experts.devices import Devices
from runtime.experts.placement import Placement
from runtime.experts.search import Bounds


def bounds_for(
    load: FloatArray, devices: Devices, slots: int, current: Placement | None, moves: int | None
) -> Bounds:
    """The limits of a plan.

    Args:
        load: ``[layers, experts]``.
        devices: The devices.
        slots: Replica places of a layer; layers share those of all.
        current: What is to be changed.
        moves: New replicas at most; None for any number.

    Raises:
        PlacementError: No placement keeps to the limits; the text names the one that breaks.
    """
    layers, experts = load.shape
    if slots < experts:
        raise PlacementError(
            f"slots: {slots} a layer do not hold {experts} experts; give {experts} or more"
        )
    memory = np.minimum(devices.memory, layers * experts)
    if memory.sum() < layers * experts:
        raise PlacementError(
            f"memory: the devices hold {memory.sum()} replicas together; {layers} layers of "
            f"{experts} experts need {layers * experts}"
        )
    if moves is not None and moves < 0:
        raise PlacementError(f"moves: the bound is {moves}; give 0 or more")
    if current is not None:
        check_form(current, layers, experts, devices.count)
    elif moves is not None:
        raise PlacementError("moves: a bound needs a current placement to move from; give one")
    replicas = min(layers * min(slots, experts * devices.count), int(memory.sum()))
    return Bounds(replicas, memory, layers * experts * devices.count if moves is None else moves)


def check_form(current: Placement, layers: int, experts: int, devices: int) -> None:
    """Refuse a placement of another form.

    Raises:
        PlacementError: Layers, experts or devices differ.
    """
    form = (current.layers, current.experts, current.devices)
    if form != (layers, experts, devices):
        raise PlacementError(
            f"current: the placement is of {form[0]} layers, {form[1]} experts and {form[2]} "
            f"devices; wanted {layers}, {experts} and {devices}"
        )
