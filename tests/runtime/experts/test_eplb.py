from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import PlacementError
from runtime.experts.eplb import pack, place_eplb, replicate
from runtime.experts.simple import place_by_threshold, place_once
from runtime.experts.traces import zipf_popularity


def test_the_hot_expert_gets_the_spare_slots():
    assert replicate(np.array([[9.0, 2.0, 4.0]]), 6).tolist() == [[3, 1, 2]]


def test_packs_hold_as_many_items_and_the_heaviest_goes_first():
    packed = pack(np.array([[8.0, 5.0, 4.0, 1.0]]), 2)
    assert packed.tolist() == [[0, 1, 1, 0]]


def test_it_balances_the_load_that_it_is_given_as_published():
    load = zipf_popularity(np.random.default_rng(0), 12, 256)
    level = place_eplb(load, 32, 288).device_load(load)
    assert (level.max(1) / level.mean(1)).mean() == pytest.approx(1.005, rel=0.02)
    grouped = place_eplb(load, 32, 288, groups=8, nodes=8)
    level = grouped.device_load(load)
    assert (level.max(1) / level.mean(1)).mean() == pytest.approx(2.39, rel=0.08)  # 12 layers


def test_groups_stay_on_their_node():
    load = np.random.default_rng(1).exponential(size=(3, 16))
    placed = place_eplb(load, 8, 24, groups=4, nodes=2)
    node = placed.device // 4
    for layer in range(3):
        for group in range(4):
            mine = (placed.layer == layer) & (placed.expert // 4 == group)
            assert len(set(node[mine].tolist())) == 1


def test_numbers_that_do_not_divide_are_refused():
    with pytest.raises(PlacementError, match="do not divide"):
        place_eplb(np.ones((1, 8)), 3, 10)
    with pytest.raises(PlacementError, match="4 slots do not hold 8 experts"):
        place_eplb(np.ones((1, 8)), 2, 4)


def test_thresholds_give_replicas_to_large_targets_until_they_do_not_fit():
    load = np.array([[0.2, 0.12, 0.06, *[0.62 / 13] * 13]])
    roomy = place_by_threshold(load, 4, 32).copies[0]
    assert roomy.tolist() == [4, 3, 2] + [1] * 13
    tight = place_by_threshold(load, 4, 18).copies[0]
    assert tight.sum() == 18
    assert tight.max() == 2  # the largest gave theirs back


def test_without_placement_experts_stand_side_by_side():
    placed = place_once(1, 6, 3)
    assert placed.device.tolist() == [0, 0, 1, 1, 2, 2]
