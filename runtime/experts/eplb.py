"""The load balancer published with DeepSeek-V3, written from its description: a yardstick.

Its description: "redundant experts": each spare slot goes to the expert whose replicas are
busiest; "heuristic packing": replicas, the busiest first, go to the device with the least load
that has a slot free; "hierarchical": groups of experts are first packed onto nodes, then experts
are replicated within nodes, then packed onto the devices of a node
(github.com/deepseek-ai/EPLB, README; DeepSeek-V3 Technical Report, 2024, section 3.4). Tokens are
split equally over the replicas of an expert. What a window was placed on before is not looked at.
"""

from __future__ import annotations

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray, IntArray
from runtime.experts.placement import Placement, placement_from_replicas
from runtime.tensors import Array


def replicate(load: FloatArray, slots: int) -> IntArray:
    """Give each spare slot to the expert whose copies are busiest.

    Args:
        load: ``[layers, experts]`` tokens.
        slots: All slots of a layer, at least ``experts``.

    Returns:
        ``[layers, experts]`` copies of each expert; a layer's sum to ``slots``.

    Raises:
        PlacementError: There are fewer slots than experts.
    """
    layers, experts = load.shape
    if slots < experts:
        raise PlacementError(f"{slots} slots do not hold {experts} experts; give {experts} or more")
    copies = np.ones((layers, experts), dtype=np.int64)
    row = np.arange(layers)
    for _ in range(slots - experts):
        copies[row, (load / copies).argmax(1)] += 1
    return copies


def pack(weight: FloatArray, packs: int) -> IntArray:
    """Put as many items into each pack, the heaviest first into the lightest with room.

    Args:
        weight: ``[rows, items]``; items divide by ``packs``.
        packs: Number of packs.

    Returns:
        ``[rows, items]`` the pack of each.

    Raises:
        PlacementError: The items do not divide.
    """
    rows, items = weight.shape
    if items % packs:
        raise PlacementError(f"{items} items do not fill {packs} packs equally; give a multiple")
    order = np.argsort(-weight, axis=1, kind="stable")
    pack_of = np.empty((rows, items), dtype=np.int64)
    for row in range(rows):
        total, room = [0.0] * packs, [items // packs] * packs
        heavy = weight[row].tolist()
        for item in order[row].tolist():
            lightest = min((each for each in range(packs) if room[each]), key=total.__getitem__)
            pack_of[row, item] = lightest
            total[lightest] += heavy[item]
            room[lightest] -= 1
    return pack_of


def place_eplb(
    load: Array, devices: int, slots: int, *, groups: int = 1, nodes: int = 1
) -> Placement:
    """Replicate and pack.

    Args:
        load: ``[layers, experts]`` tokens of the window to place for.
        devices: Equal devices, those of a node side by side.
        slots: Of one layer on all devices; a multiple of ``devices``.
        groups: Of experts side by side, each kept on a node; 1 for the global rule.
        nodes: That devices and groups divide by; 1 for the global rule.

    Raises:
        PlacementError: The numbers do not divide, or there are fewer slots than experts.
    """
    layers, experts = load.shape
    if experts % groups or groups % nodes or devices % nodes or slots % devices:
        raise PlacementError(
            f"{experts} experts, {groups} groups, {nodes} nodes, {devices} devices and {slots} "
            "slots do not divide; wanted groups in experts, nodes in groups and in devices, "
            "devices in slots"
        )
    member = _members(load, groups, nodes)  # [layers * nodes, experts / nodes]
    mine = np.take_along_axis(np.repeat(load, nodes, axis=0), member, axis=1)
    copies = replicate(mine, slots // nodes)
    local = np.concatenate([np.repeat(np.arange(experts // nodes), each) for each in copies])
    local = local.reshape(layers * nodes, slots // nodes)
    busy = np.take_along_axis(mine / copies, local, axis=1)
    device = pack(busy, devices // nodes) + (
        np.tile(np.arange(nodes), layers)[:, None] * (devices // nodes)
    )
    expert = np.take_along_axis(member, local, axis=1)
    layer = np.repeat(np.arange(layers), slots)
    replicas = (layer, expert.reshape(-1), device.reshape(-1))
    return placement_from_replicas(layers, experts, devices, replicas, np.ones(layers * slots))


def _members(load: Array, groups: int, nodes: int) -> IntArray:
    """``[layers * nodes, experts / nodes]`` the experts of each node."""
    layers, experts = load.shape
    size = experts // groups
    node = pack(load.reshape(layers, groups, size).sum(2), nodes)  # [layers, groups]
    group = np.argsort(node, axis=1, kind="stable")  # those of node 0 first
    expert = group[:, :, None] * size + np.arange(size)
    return np.asarray(expert.reshape(layers * nodes, experts // nodes), dtype=np.int64)
