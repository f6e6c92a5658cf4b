"""How long a step takes: per-token compute, memory and links.

The defaults are an expert of DeepSeek-V3 (three matrices of 7,168 by 2,048 in FP8) on a device
of 500 TFLOP/s and 3 TB/s, with links of 160 GB/s within a node and 40 GB/s between nodes: an
arithmetic that compares placements, not a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray
from runtime.experts.devices import Devices
from runtime.experts.link_prices import LEAST_TOKEN_US, MOST_US, TOKEN_US
from runtime.experts.placement import Placement
from runtime.experts.terms import Terms
from runtime.tensors import Array


@dataclass(frozen=True)
class StepModel:
    """What tokens and weights cost.

    Attributes:
        token_us: One token through one expert on a device of mean speed.
        replica_us: Reading the weights of one replica, once a step.
        token_bytes: Of a token on its way to an expert and back.
        near_gbps: Link of a device within its node, GB/s.
        far_gbps: Link of a device to other nodes, GB/s.

    Raises:
        PlacementError: A value is not above 0, or ``token_us`` is not from 1e-9 to 1e9.
    """

    token_us: float = TOKEN_US
    replica_us: float = 15.0
    token_bytes: int = 3 * 7168
    near_gbps: float = 160.0
    far_gbps: float = 40.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < float("inf"):
                raise PlacementError(f"{name} is {value}; give a value above 0")
        if not LEAST_TOKEN_US <= self.token_us <= MOST_US:
            raise PlacementError(
                f"token_us is {self.token_us}; give {LEAST_TOKEN_US:g} to {MOST_US:g}"
            )


@dataclass(frozen=True)
class Step:
    """One window as one step through all layers.

    Attributes:
        ms: Time of the step.
        ideal_ms: Compute alone at even levels.
        link_ms: Part of the time that links take.
        off_home: Part of the tokens computed outside of their expert's home node.
    """

    ms: float
    ideal_ms: float
    link_ms: float
    off_home: float


def step_of(
    placement: Placement, counts: Array, devices: Devices, model: StepModel, terms: Terms
) -> Step:
    """Time a window.

    In a layer the devices compute side by side; a device takes as long as its tokens take to
    compute or its weights take to read. Then the slowest link decides. Tokens of experts
    computed on their home node go over near links, others over far ones; where the terms have
    links, these say what a token takes to its device.

    Args:
        placement: Where experts are, and their shares.
        counts: ``[layers, experts]`` tokens.
        devices: Speeds and nodes.
        model: What things cost.
        terms: Says the home nodes and the links.

    Raises:
        PlacementError: The links are for another number of devices.
    """
    layers, experts = counts.shape
    amount = counts.reshape(-1)[placement.group] * placement.share
    home = terms.homes(layers, experts, devices.nodes).reshape(-1)[placement.group]
    away = devices.node[placement.device] != home
    place = placement.layer * devices.count + placement.device

    def summed(value: FloatArray) -> FloatArray:
        total = np.bincount(place, value, minlength=layers * devices.count)
        return total.reshape(layers, devices.count).astype(float)

    compute = summed(amount) * model.token_us / devices.pace
    read = summed((amount > 0).astype(float)) * model.replica_us
    busy = np.maximum(compute, read).max(1)  # [layers] us
    if terms.links is None:
        us_per_byte = np.where(away, 1e-3 / model.far_gbps, 1e-3 / model.near_gbps)
        sent = summed(amount * model.token_bytes * us_per_byte)
    else:
        sent = summed(amount) * terms.links.us_to(devices.count)
    link = sent.max(1)
    ideal = float(counts.sum()) * model.token_us / devices.count
    total = float(counts.sum())
    return Step(
        float(busy.sum() + link.sum()) / 1000,
        ideal / 1000,
        float(link.sum()) / 1000,
        float(amount[away].sum()) / total if total else 0.0,
    )
