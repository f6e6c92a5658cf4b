from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import PlacementError
from runtime.experts.devices import Devices, equal_devices
from runtime.experts.model import StepModel, step_of
from runtime.experts.policies import POLICIES, Setting
from runtime.experts.replay import Reward, Shares, replay
from runtime.experts.simple import place_once
from runtime.experts.terms import FREE
from runtime.experts.trace import Trace
from runtime.experts.traces import drifting

TRACE = drifting(0, 6, (3, 32), keeps=0.95)
SETTING = Setting(equal_devices(8, 15), 40, moves=5)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shares", Shares)
def test_no_policy_sees_the_window_it_is_scored_on(policy, shares):
    changed = TRACE.counts.copy()
    changed[-1] = changed[-1][:, np.random.default_rng(1).permutation(32)]
    one = replay(TRACE, policy, SETTING, shares=shares)
    two = replay(replace(TRACE, counts=changed), policy, SETTING, shares=shares)
    assert one.windows[:-1] == tuple(
        replace(window, plan_s=mine.plan_s)
        for window, mine in zip(two.windows[:-1], one.windows[:-1], strict=True)
    )
    assert one.windows[-1].moved == two.windows[-1].moved
    assert one.windows[-1].max_over_mean != two.windows[-1].max_over_mean


def test_live_shares_level_at_least_as_well_and_move_nothing_more():
    for policy in ("eplb", "ours"):
        planned = replay(TRACE, policy, SETTING)
        live = replay(TRACE, policy, SETTING, shares=Shares.LIVE)
        assert live.excess < planned.excess
        assert live.moved == planned.moved


def test_scores_are_those_of_the_levels():
    counts = np.tile(np.array([[[3, 1, 2, 2]]]), (2, 1, 1))
    done = replay(Trace(counts), "none", Setting(equal_devices(2, 2), 4), history=1)
    assert done.windows[0].balance == 1
    assert done.windows[0].max_over_mean == 1
    done = replay(Trace(counts), "none", Setting(equal_devices(4, 1), 4), history=1)
    assert done.windows[0].max_over_mean == 1.5
    assert done.windows[0].balance == pytest.approx(1 - np.sqrt(0.5) / 2)


def test_a_step_takes_as_long_as_its_fullest_device_and_link():
    model = StepModel(1.0, 1e-9, 1000, 1.0, 0.25)  # us a token; 1 us and 4 us a token on links
    devices = equal_devices(2, 2, nodes=2)
    step = step_of(place_once(1, 4, 2), np.array([[5, 1, 2, 0]]), devices, model, FREE)
    assert step.ms == pytest.approx(0.012)  # 6 tokens to compute, 6 over a near link
    assert step.ideal_ms == pytest.approx(0.004)
    assert step.off_home == 0
    slow = Devices(np.array([0.5, 1.5]), devices.memory, devices.node)
    assert step_of(place_once(1, 4, 2), np.array([[5, 1, 2, 0]]), slow, model, FREE).ms == (
        pytest.approx(0.018)
    )


def test_far_links_count_for_tokens_off_their_home_node():
    model = StepModel(1e-9, 1e-9, 1000, 1.0, 0.25)
    away = FREE.__class__(home=np.array([[1, 1, 0, 0]]))
    step = step_of(
        place_once(1, 4, 2), np.array([[5, 1, 2, 0]]), equal_devices(2, 2, 2), model, away
    )
    assert step.off_home == 1
    assert step.link_ms == pytest.approx(0.024)


def test_reading_weights_bounds_a_step_of_few_tokens():
    model = StepModel(1e-9, 7.0, 1, 1e9, 1e9)
    step = step_of(place_once(1, 4, 2), np.array([[1, 0, 1, 1]]), equal_devices(2, 2), model, FREE)
    assert step.ms == pytest.approx(0.014)


def test_more_moved_bytes_are_a_lower_reward():
    cheap = replay(TRACE, "ours", SETTING)
    heavy = replace(cheap, replica_bytes=10**9)
    assert heavy.reward(Reward()) < cheap.reward(Reward())
    assert cheap.reward(Reward(1, 0, 0)) == pytest.approx(cheap.utilization)


def test_what_cannot_be_replayed_is_refused():
    with pytest.raises(PlacementError, match="no policy 'best'"):
        replay(TRACE, "best", SETTING)
    with pytest.raises(PlacementError, match="history of 6 windows"):
        replay(TRACE, "none", SETTING, history=6)
    uneven = Devices(np.array([1.0, 2.0]), np.array([60, 60]), np.zeros(2, dtype=np.int64))
    with pytest.raises(PlacementError, match="equal devices only"):
        replay(TRACE, "eplb", Setting(uneven, 40))
    with pytest.raises(PlacementError, match="give a value above 0"):
        StepModel(token_us=0)
