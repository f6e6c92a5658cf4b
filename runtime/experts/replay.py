"""A trace replayed under a policy, each window scored on a placement made before it.

A policy sees the windows before the one it is scored on, and nothing of that one. What happens
to the shares inside a window is said by ``Shares``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from runtime.errors import PlacementError
from runtime.experts.arrays import FloatArray
from runtime.experts.company import apart_of, touched_by
from runtime.experts.model import Step, StepModel, step_of
from runtime.experts.placement import Placement
from runtime.experts.plan import reshare
from runtime.experts.policies import POLICIES, Setting
from runtime.experts.trace import Trace

BATCH = 8
"""Tokens of a batch, of which it is said how many devices it goes to."""


class Shares(StrEnum):
    """When the shares of replicas are decided.

    PLANNED: before the window, with the placement, from past windows alone.
    LIVE: in the window, from its own counts, as a dispatcher does that hears from the gate how
    many tokens each expert gets before it sends them. Replicas do not move for it.
    """

    PLANNED = "planned"
    LIVE = "live"


@dataclass(frozen=True)
class Reward:
    """What a policy is worth: ``alpha * T - beta * L - gamma * C``.

    T is the mean throughput in parts of that of even levels without links, L the 99th
    percentile of the step time in units of the ideal one, C the bytes that leave a node or
    are moved weights, in parts of the bytes dispatched.
    """

    alpha: float = 1.0
    beta: float = 0.1
    gamma: float = 0.1


@dataclass(frozen=True)
class Window:
    """One window's score.

    Attributes:
        balance: 1 - standard deviation over mean of device levels, mean over layers.
        max_over_mean: Highest device level over the mean one, mean over layers.
        step: Its time.
        moved: Replicas that were new on their device.
        plan_s: Seconds that the policy took.
        touched: Devices that a batch goes to in a layer, as expected.
        apart: Part of the companions of a token's expert that is on other devices; None
            where the trace does not say who is called together.
    """

    balance: float
    max_over_mean: float
    step: Step
    moved: int
    plan_s: float
    touched: float
    apart: float | None


@dataclass(frozen=True)
class Replayed:
    """All windows of one policy.

    Attributes:
        policy: Its name.
        trace: Name of the trace.
        shares: When shares were decided.
        windows: Scores, the first window that was placed for first.
        before: ``[layers, devices]`` levels of the last window without placement.
        after: ``[layers, devices]`` levels of the last window.
        token_bytes: Of a token on its way.
        replica_bytes: Weights of a replica.
        tokens: Of all windows and layers.
    """

    policy: str
    trace: str
    shares: Shares
    windows: tuple[Window, ...]
    before: FloatArray
    after: FloatArray
    token_bytes: int
    replica_bytes: int
    tokens: int

    def mean(self, name: str) -> float:
        """Mean of ``balance``, ``max_over_mean``, ``moved``, ``touched`` or ``plan_s``."""
        return float(np.mean([getattr(window, name) for window in self.windows]))

    @property
    def excess(self) -> float:
        """Mean of max/mean over windows, less 1."""
        return self.mean("max_over_mean") - 1

    @property
    def moved(self) -> int:
        """Transfers between the windows; the first placement does not count."""
        return sum(window.moved for window in self.windows[1:])

    def step_ms(self, percent: float) -> float:
        """Percentile of the step times."""
        return float(np.percentile([window.step.ms for window in self.windows], percent))

    @property
    def link_ms(self) -> float:
        """Mean part of a step that its slowest links take."""
        return float(np.mean([window.step.link_ms for window in self.windows]))

    @property
    def utilization(self) -> float:
        """Part of the devices' time in which they compute."""
        ideal = sum(window.step.ideal_ms for window in self.windows)
        return ideal / max(sum(window.step.ms for window in self.windows), 1e-300)

    @property
    def off_home(self) -> float:
        """Part of the tokens computed outside of their expert's home node."""
        return float(np.mean([window.step.off_home for window in self.windows]))

    @property
    def apart(self) -> float | None:
        """Mean over windows; None where nobody counted who is called together."""
        found = [window.apart for window in self.windows if window.apart is not None]
        return float(np.mean(found)) if found else None

    def reward(self, weights: Reward) -> float:
        """The source's reward."""
        ideal = float(np.mean([window.step.ideal_ms for window in self.windows]))
        sent = self.tokens * self.token_bytes
        weights_sent = self.moved * self.replica_bytes / max(sent, 1)
        return (
            weights.alpha * self.utilization
            - weights.beta * self.step_ms(99) / max(ideal, 1e-300)
            - weights.gamma * (self.off_home + weights_sent)
        )


def replay(
    trace: Trace,
    policy: str,
    setting: Setting,
    *,
    shares: Shares = Shares.PLANNED,
    history: int = 3,
    model: StepModel = StepModel(),  # noqa: B008 - frozen
    batch: int = BATCH,
) -> Replayed:
    """Place for each window on those before it, and score on it.

    Args:
        trace: The windows.
        policy: One of ``POLICIES``.
        setting: Devices, slots and bounds.
        shares: When shares are decided. The policies ``none``, ``threshold`` and ``eplb``
            split equally where they are planned.
        history: Windows before the first that is placed for.
        model: What time is reckoned with.
        batch: Tokens of which it is said how many devices they go to.

    Raises:
        PlacementError: The trace is too short, or the policy cannot place as asked.
    """
    if policy not in POLICIES:
        raise PlacementError(f"there is no policy '{policy}'; wanted {', '.join(POLICIES)}")
    if not 1 <= history < len(trace.counts):
        raise PlacementError(
            f"history of {history} windows leaves none of {len(trace.counts)} to score; "
            f"give 1 to {len(trace.counts) - 1}"
        )
    if batch < 1:
        raise PlacementError(f"batch: there are {batch} tokens; give 1 or more")
    current: Placement | None = None
    scores = []
    for at in range(history, len(trace.counts)):
        begun = time.perf_counter()
        placed = POLICIES[policy](trace.counts[:at], current, setting)
        seconds = time.perf_counter() - begun
        moved = len(placed.keys) if current is None else int(placed.new_since(current).sum())
        current = placed
        counts = trace.counts[at]
        used = placed
        if shares is Shares.LIVE:
            used = reshare(placed, counts, setting.devices, setting.terms)
        level = levels(used, counts, setting)
        step = step_of(used, counts, setting.devices, model, setting.terms)
        together = trace.together
        scores.append(Window(
            *balance_of(level), step, moved, seconds,
            touched_by(used, counts, batch * trace.top_k),
            None if together is None else apart_of(used, counts, together),
        ))  # fmt: skip
    once = POLICIES["none"](trace.counts, None, setting)
    return Replayed(
        policy, trace.name, shares, tuple(scores), levels(once, counts, setting), level,
        model.token_bytes, setting.terms.replica_bytes, int(trace.counts[history:].sum()),
    )  # fmt: skip


def levels(placement: Placement, counts: FloatArray, setting: Setting) -> FloatArray:
    """``[layers, devices]`` load over speed; 1 where levels are even, or there is no load."""
    load = placement.device_load(counts)
    load = np.where(load.sum(1, keepdims=True) > 0, load, setting.devices.pace)
    return np.asarray(load / load.mean(1, keepdims=True) / setting.devices.pace)


def balance_of(level: FloatArray) -> tuple[float, float]:
    """Balance and max/mean, means over layers, of ``[layers, devices]`` levels."""
    return float(np.mean(1 - level.std(1) / level.mean(1))), float(np.mean(level.max(1)))
