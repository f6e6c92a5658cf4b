from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import PlacementError
from runtime.experts.company import apart_of, company, touched_by
from runtime.experts.devices import equal_devices
from runtime.experts.placement import Placement
from runtime.experts.plan import outlook_of
from runtime.experts.policies import Setting
from runtime.experts.predict import Forecast
from runtime.experts.replay import replay
from runtime.experts.simple import place_once
from runtime.experts.terms import Terms
from runtime.experts.traces import drifting

PAIRS = np.zeros((1, 4, 4))
PAIRS[0, 0, 1] = PAIRS[0, 1, 0] = 3.0
PAIRS[0, 0, 2] = PAIRS[0, 2, 0] = 1.0


def test_companions_count_by_how_often_they_are_called_together():
    placed = place_once(1, 4, 2)  # 0 and 1 on device 0, 2 and 3 on device 1
    np.testing.assert_allclose(company(placed, PAIRS)[0, 0], [0.75, 0.25])
    assert apart_of(placed, np.array([[4, 0, 0, 0]]), PAIRS) == pytest.approx(0.25)
    # Three tokens on 0 miss a quarter, one on 2 misses all.
    assert apart_of(placed, np.array([[3, 0, 1, 0]]), PAIRS) == pytest.approx(1.75 / 4)
    assert apart_of(placed, np.zeros((1, 4)), PAIRS) == 0
    with pytest.raises(PlacementError, match=r"wanted \[1, 4, 4\]"):
        apart_of(placed, np.ones((1, 4)), PAIRS[:, :3])


def test_apart_is_what_the_planner_reckons_with_a_price_of_one():
    rng = np.random.default_rng(0)
    together = rng.random((2, 8, 8))
    together += together.transpose(0, 2, 1)
    load, devices = rng.random((2, 8)), equal_devices(4, 6)
    # As many tokens in each layer, so that the mean over layers is the mean over tokens.
    load /= load.sum(1, keepdims=True)
    placed = place_once(2, 8, 4)
    terms = Terms(touch=1.0, together=together)
    outlook = outlook_of(Forecast(load, 0.0), devices, placed, terms)
    amount = outlook.load.reshape(-1)[placed.group] * placed.share
    paid = outlook.costs(placed.keys, amount)[2].mean()
    assert apart_of(placed, load, together) == pytest.approx(paid)


def test_a_batch_goes_to_as_many_devices_as_draws_say():
    placed = Placement(1, 2, 3, np.array([0, 1, 5]), np.array([0.5, 0.5, 1.0]))
    counts = np.array([[6, 2]])  # devices of 3/8, 3/8 and 2/8 of the load
    assert touched_by(placed, counts, 1) == pytest.approx(1)
    rng = np.random.default_rng(1)
    drawn = rng.choice(3, p=[3 / 8, 3 / 8, 2 / 8], size=(40_000, 3))
    mean = np.mean([len(set(row)) for row in drawn.tolist()])
    assert touched_by(placed, counts, 3) == pytest.approx(mean, rel=0.01)


def test_a_replay_counts_the_calls_of_its_batch_and_companions_only_if_they_are_known():
    trace = replace(drifting(0, 5, (2, 16), keeps=0.9), top_k=2)
    setting = Setting(equal_devices(4, 10), 20)
    done = replay(trace, "none", setting, batch=3)
    placed = place_once(2, 16, 4)
    assert done.mean("touched") == pytest.approx(
        np.mean([touched_by(placed, counts, 6) for counts in trace.counts[3:]])
    )
    assert done.apart is None
    with_pairs = replace(trace, together=np.ones((2, 16, 16)))
    assert replay(with_pairs, "none", setting).apart == pytest.approx(12 / 15)
    with pytest.raises(PlacementError, match="batch: there are 0 tokens"):
        replay(trace, "none", setting, batch=0)
