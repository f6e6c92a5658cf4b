"""A few moves that keep a placement able to follow the load.

Shared experts are taken as resistors: an expert on two devices carries at most half of its load
either way, so that what must flow between devices costs the square of the flow over the square
of that half, and what cannot flow remains as a level too high and costs, too. The least such
cost is that of currents in a network (energy as in P. Doyle and J. Snell, "Random walks and
electric networks", 1984). It counts what is expected and the variance of what may come, and a
move changes it by a formula: an expert that changes devices, or a replica that is added while
another is dropped. Moves are taken greedily, all layers at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from runtime.experts.arrays import BoolArray, FloatArray, IntArray
from runtime.experts.outlook import Outlook
from runtime.experts.search import Bounds, Search

MOST_DEVICES = 128
"""Above so many the networks take too long to solve."""
_REST = 2.0
"""Load too much that costs as much as a flow that takes all that an expert can carry, in units of
the mean expert."""
_POWER = 0.5
"""Of the cost that a highest level is about in proportion to."""
_TOWARDS = 3
"""Devices of the lowest potential that are tried for each expert of a layer."""
_LENT = -8
"""Places that a device may lack for a while."""
_LEAST_RESISTANCE = 1e-12


@dataclass
class _Net:
    """Replicas, levels with equal shares and what they cost, while moves are made.

    Attributes:
        outlook: Loads and spread.
        deviations: Standard deviations of the load that count.
        group: ``[replicas]`` layer and expert as one number.
        device: ``[replicas]``.
        green: ``[layers, devices, devices]`` potential on one device of a load on another.
        stale: ``[layers]`` layers whose ``green`` is to be made anew.
        potential: ``[layers, devices]`` of the load that is too much or too little.
        noise: ``[layers, devices, devices]`` covariance of the potentials.
        cost: ``[layers]``.
        copies: ``[layers * experts]``.
        layer: ``[replicas]``.
    """

    outlook: Outlook
    deviations: float
    group: IntArray
    device: IntArray
    green: FloatArray = field(init=False)
    stale: BoolArray = field(init=False)
    potential: FloatArray = field(init=False)
    noise: FloatArray = field(init=False)
    cost: FloatArray = field(init=False)
    copies: IntArray = field(init=False)
    layer: IntArray = field(init=False)

    def __post_init__(self) -> None:
        layers, devices = len(self.outlook.load), self.outlook.devices
        self.green = np.zeros((layers, devices, devices))
        self.stale = np.ones(layers, dtype=bool)
        self.potential = np.zeros((layers, devices))
        self.noise = np.zeros((layers, devices, devices))
        self.cost = np.zeros(layers)
        self.solve(np.arange(layers))

    @property
    def rest(self) -> float:
        """As load."""
        return float(_REST * self.outlook.devices / self.outlook.load.shape[1])

    def solve(self, rows: IntArray) -> None:
        """Potentials of so many layers for the replicas as they are."""
        layers, devices = len(self.outlook.load), self.outlook.devices
        flat = self.outlook.load.reshape(-1)
        self.copies = np.bincount(self.group, minlength=len(flat))
        self.layer = self.group // self.outlook.load.shape[1]
        each = (flat / np.maximum(self.copies, 1))[self.group]
        place = self.layer * devices + self.device
        level = np.bincount(place, each, minlength=layers * devices).reshape(layers, devices)
        over = level[rows] - self.outlook.speed
        each *= self.copies[self.group] == 1
        square = np.bincount(place, each * each, minlength=layers * devices)
        square = square.reshape(layers, devices)[rows]
        variance = square * (self.deviations * self.outlook.spread) ** 2
        again = np.flatnonzero(self.stale)
        if len(again):
            self.green[again] = np.linalg.inv(self._conductances(again))
            self.stale[:] = False
        green = self.green[rows]
        self.potential[rows] = potential = (green @ over[:, :, None])[:, :, 0]
        self.noise[rows] = (green * variance[:, None]) @ green
        own = np.diagonal(green, axis1=1, axis2=2)
        self.cost[rows] = ((over * potential).sum(1) + (own * variance).sum(1)) / 2

    def _conductances(self, rows: IntArray) -> FloatArray:
        """``[rows, devices, devices]`` the network's matrix, with the way to the ground."""
        devices = self.outlook.devices
        index = np.full(len(self.outlook.load), -1)
        index[rows] = np.arange(len(rows))
        mine = (self.copies[self.group] > 1) & (index[self.layer] >= 0)
        group, device, most = _ordered(self.group[mine], self.device[mine])
        matrix = np.zeros((len(rows), devices, devices))
        matrix[:, np.arange(devices), np.arange(devices)] = self.rest**2
        for apart in range(1, most):
            same = np.flatnonzero(group[apart:] == group[:-apart])
            one, other, at = device[same], device[same + apart], group[same]
            count = self.copies[at]
            carried = (self.outlook.load.reshape(-1)[at] / count) ** 2 * 2 / count
            row = index[at // self.outlook.load.shape[1]]
            np.add.at(matrix, (row, one, other), -carried)
            np.add.at(matrix, (row, other, one), -carried)
            np.add.at(matrix, (row, one, one), carried)
            np.add.at(matrix, (row, other, other), carried)
        return matrix

    def mean(self, value: FloatArray) -> FloatArray:
        """``[layers, experts]`` mean over an expert's devices of ``[layers, devices]``."""
        total = np.bincount(self.group, value[self.layer, self.device], minlength=len(self.copies))
        return np.asarray((total / self.copies).reshape(self.outlook.load.shape))


def rearranged(keys: IntArray, outlook: Outlook, bounds: Bounds, search: Search) -> IntArray:
    """Replicas after at most so many moves.

    Args:
        keys: ``[replicas]`` as in ``Placement``, within the bounds.
        outlook: What is expected; without prices.
        bounds: What to keep to.
        search: How long to look.
    """
    layers, devices = len(outlook.load), outlook.devices
    net = _Net(outlook, search.stress, keys // devices, keys % devices)
    left = bounds.moves
    room = bounds.memory - np.bincount(net.device, minlength=devices)
    adds = np.ones(layers, dtype=bool)
    for turn in range(search.turns):
        # A move may take a second one that makes room where it went.
        free = left - int(np.maximum(-room, 0).sum())
        most = min(-(-free // (search.turns - turn)), free // 2)
        if most <= 0:
            break
        left -= _step(net, room, most, search, adds)
    new = ~np.isin(net.group * devices + net.device, keys)
    _repaired(net, room, bounds.moves - int(new.sum()))
    if np.any(room < 0):
        return keys
    return np.sort(net.group * devices + net.device)


def _step(net: _Net, room: IntArray, most: int, search: Search, adds: BoolArray) -> int:
    """The best move of each layer, of as many layers as may; says how many were made."""
    drop_gain, drop_at = _cheapest_drop(net)
    gain, best = _best_moves(net, room, np.where(adds, drop_gain, -np.inf))
    worth = net.cost**_POWER - np.maximum(net.cost - gain, 0) ** _POWER
    ranked = np.argsort(-worth * net.outlook.weight, kind="stable")
    chosen = _within(ranked[gain[ranked] > search.least_gain], best[1], room - _LENT, most)
    before = net.cost.copy()
    changed, was = _apply(net, room, chosen, best[:, chosen], drop_at)
    net.solve(chosen)
    worse = net.cost[chosen] > before[chosen]
    if worse.any():
        back, group, device = changed[worse], *was[:, worse]
        np.add.at(room, net.device[back], 1)
        np.add.at(room, device, -1)
        net.group[back], net.device[back] = group, device
        net.stale[chosen[worse]] = best[2, chosen[worse]] == 1
        net.solve(chosen[worse])
    adds[chosen[worse]] = False
    return int((~worse).sum())


def _best_moves(net: _Net, room: IntArray, drop_gain: FloatArray) -> tuple[FloatArray, IntArray]:
    """What each layer gains by its best move, and expert, device and kind of that.

    Args:
        net: As it is.
        room: ``[devices]`` places that are left, below 0 where some are lent.
        drop_gain: ``[layers]`` what goes with an added replica, for another that is dropped.

    Returns:
        ``[layers]``, and ``[3, layers]``; the kind is 1 where a replica is added.
    """
    load = net.outlook.load
    layers = len(load)
    row = np.arange(layers)
    count = net.copies.reshape(load.shape)
    single = count == 1
    noise = (net.deviations * net.outlook.spread * load) ** 2
    self_green = np.einsum("lii->li", net.green)
    self_noise = np.einsum("lii->li", net.noise)
    here, own, wobble = (net.mean(each) for each in (net.potential, self_green, self_noise))
    best_gain = np.full(layers, -np.inf)
    best = np.zeros((3, layers), dtype=np.int64)
    potential = np.where(room > _LENT, net.potential, np.inf)
    towards = np.argpartition(potential, min(_TOWARDS, potential.shape[1] - 1), axis=1)
    for to in towards[:, :_TOWARDS].T:
        cross = net.mean(net.green[row, to])
        mutual = net.mean(net.noise[row, to])
        there = self_green[row, to][:, None]
        resistance = np.maximum(own / count + there - 2 * cross, _LEAST_RESISTANCE)
        drop = here - net.potential[row, to][:, None]
        held = np.zeros(load.shape, dtype=bool)
        held.reshape(-1)[net.group[net.device == to[net.layer]]] = True
        moved = load * drop - load**2 * resistance / 2 - noise * (there - own) / 2
        part = load / (count + 1)
        carried = part**2 * 2 * count / (count + 1)
        after = drop - part * resistance
        shaky = np.maximum(wobble + self_noise[row, to][:, None] - 2 * mutual, 0)
        added = part * drop - part**2 * resistance / 2
        added += carried * (after**2 + shaky) / (2 * (1 + carried * resistance))
        added += np.where(single, noise * own / 2, 0) + drop_gain[:, None]
        for gain, kind in ((np.where(single, moved, -np.inf), 0), (added, 1)):
            gain = np.where(held | (room[to] <= _LENT)[:, None], -np.inf, gain)
            expert = gain.argmax(1)
            value = gain[row, expert]
            better = value > best_gain
            best_gain = np.where(better, value, best_gain)
            best[:, better] = np.stack((expert, to, np.full(layers, kind)))[:, better]
    return best_gain, best


def _within(ranked: IntArray, to: IntArray, room: IntArray, most: int) -> IntArray:
    """Of ranked layers the first so many whose moves find room."""
    chosen: list[int] = []
    for layer in ranked.tolist():
        if len(chosen) < most and room[to[layer]] > 0:
            room[to[layer]] -= 1
            chosen.append(layer)
    return np.array(chosen, dtype=np.int64)


def _cheapest_drop(net: _Net) -> tuple[FloatArray, IntArray]:
    """What each layer loses with the replica it misses least, negative, and which it is."""
    load = net.outlook.load.reshape(-1)
    layers = len(net.outlook.load)
    shared = np.flatnonzero(net.copies[net.group] > 1)
    group, device = net.group[shared], net.device[shared]
    layer, count = net.layer[shared], net.copies[group]

    def others(value: FloatArray) -> FloatArray:
        mean = net.mean(value).reshape(-1)[group]
        return (mean * count - value[layer, device]) / (count - 1)

    part = load[group] / count
    diagonal = np.einsum("lii->li", net.green)
    wobble = np.einsum("lii->li", net.noise)
    # Between the replica and the mean of the others; theirs are taken as apart.
    cross, mutual = _cross(net, shared)
    resistance = np.maximum(
        diagonal[layer, device] + others(diagonal) / (count - 1) - 2 * cross, _LEAST_RESISTANCE
    )
    shaky = np.maximum(wobble[layer, device] + others(wobble) - 2 * mutual, 0)
    carried = part**2 * 2 * (count - 1) / count
    drop = others(net.potential) - net.potential[layer, device]
    after = drop + part * resistance
    left = np.maximum(1 - carried * resistance, 0.02)
    cost = part * drop + part**2 * resistance / 2
    cost += carried * (after**2 + shaky) / (2 * left)
    cost += np.where(
        count == 2,
        (net.deviations * net.outlook.spread * load[group]) ** 2 * others(diagonal) / 2,
        0,
    )
    loss = np.full(layers, np.inf)
    np.minimum.at(loss, layer, cost)
    at = np.full(layers, -1)
    first = np.flatnonzero(cost == loss[layer])
    at[layer[first]] = shared[first]
    return np.where(np.isfinite(loss), -loss, -np.inf), at


def _cross(net: _Net, shared: IntArray) -> tuple[FloatArray, FloatArray]:
    """Potential and noise between a replica and the mean of its expert's other ones."""
    order = np.argsort(net.group[shared], kind="stable")
    group, device, most = _ordered(net.group[shared], net.device[shared])
    layer = net.layer[shared][order]
    sums = np.zeros((2, len(order)))
    for apart in range(1, most):
        same = np.flatnonzero(group[apart:] == group[:-apart])
        for index, value in enumerate((net.green, net.noise)):
            pair = value[layer[same], device[same], device[same + apart]]
            sums[index, same] += pair
            sums[index, same + apart] += pair
    sums /= net.copies[group] - 1
    out = np.empty_like(sums)
    out[:, order] = sums
    return out[0], out[1]


def _ordered(group: IntArray, device: IntArray) -> tuple[IntArray, IntArray, int]:
    """By group, and how many there are of one at most."""
    order = np.argsort(group, kind="stable")
    most = int(np.bincount(group).max()) if len(group) else 0
    return group[order], device[order], most


def _apply(
    net: _Net, room: IntArray, chosen: IntArray, best: IntArray, drop_at: IntArray
) -> tuple[IntArray, IntArray]:
    """Make the moves of the chosen layers; says which replicas changed and what they were."""
    experts = net.outlook.load.shape[1]
    order = np.argsort(net.group, kind="stable")
    ordered = net.group[order]
    expert, to, added = best
    group = chosen * experts + expert
    moved = added == 0
    at = np.where(moved, order[np.searchsorted(ordered, group)], drop_at[chosen])
    np.add.at(room, net.device[at], 1)
    np.add.at(room, to, -1)
    net.stale[chosen[~moved]] = True
    net.group, net.device = net.group.copy(), net.device.copy()
    was = np.stack((net.group[at], net.device[at]))
    net.group[at], net.device[at] = group, to
    return at, was


def _repaired(net: _Net, room: IntArray, left: int) -> None:
    """Light experts leave devices that hold too much, where it costs least."""
    load = net.outlook.load
    single = net.copies[net.group] == 1
    while left > 0 and np.any(room < 0):
        full = int(room.argmin())
        free = np.flatnonzero(room > 0)
        at = np.flatnonzero(single & (net.device == full))
        if not len(at):
            return
        layer = net.layer[at]
        weight = load.reshape(-1)[net.group[at]]
        drop = net.potential[layer, full][:, None] - net.potential[layer[:, None], free]
        row = layer[:, None]
        resistance = (
            net.green[row, full, full] + net.green[row, free, free] - 2 * net.green[row, full, free]
        )
        gain = weight[:, None] * drop - weight[:, None] ** 2 * resistance / 2
        best, column = divmod(int(gain.argmax()), len(free))
        to, mine = int(free[column]), int(layer[best])
        net.potential[mine] += weight[best] * (net.green[mine, to] - net.green[mine, full])
        net.device[at[best]] = to
        room[full] += 1
        room[to] -= 1
        left -= 1
