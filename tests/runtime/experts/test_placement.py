from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import PlacementError
from runtime.experts.placement import Placement, placement_from_replicas


def two_layers() -> Placement:
    """Expert 0 of layer 0 on both devices, everything else once."""
    layer = np.array([1, 0, 0, 0, 1])
    expert = np.array([1, 0, 0, 1, 0])
    device = np.array([1, 1, 0, 0, 0])
    weight = np.array([1.0, 3.0, 1.0, 1.0, 1.0])
    return placement_from_replicas(2, 2, 2, (layer, expert, device), weight)


def test_replicas_in_any_order_become_one_order_with_shares_that_sum_to_one():
    placed = two_layers()
    assert placed.keys.tolist() == [0, 1, 2, 4, 7]
    assert placed.share.tolist() == [0.25, 0.75, 1, 1, 1]
    assert placed.copies.tolist() == [[2, 1], [1, 1]]
    assert placed.held.tolist() == [3, 2]


def test_load_goes_to_devices_by_the_shares():
    load = np.array([[8.0, 2.0], [5.0, 7.0]])
    assert two_layers().device_load(load).tolist() == [[4, 6], [5, 7]]


def test_replicas_that_meet_on_a_device_become_one_with_both_shares():
    zero = np.zeros(3, dtype=np.int64)
    placed = placement_from_replicas(1, 1, 2, (zero, zero, np.array([0, 0, 1])), np.ones(3))
    assert placed.share.tolist() == pytest.approx([2 / 3, 1 / 3])


def test_a_transfer_is_a_replica_that_was_not_on_its_device():
    before = two_layers()
    after = Placement(2, 2, 2, np.array([0, 2, 5, 7]), np.ones(4))
    assert after.new_since(before).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("keys", "share", "said"),
    [
        ([0, 1], [0.5, 0.4], "the shares of expert 0 in layer 0 sum to 0.9"),
        ([0, 0], [0.5, 0.5], "named twice"),
        ([1, 0], [0.5, 0.5], "out of order"),
        ([0, 1], [1.5, -0.5], "has the share -0.5"),
        ([0, 1], [np.nan, 1.0], "has the share nan"),
        ([0, 2], [0.5, 0.5], "outside"),
        ([], [], "the shares of expert 0 in layer 0 sum to 0"),
    ],
)
def test_what_is_no_placement_is_refused(keys, share, said):
    with pytest.raises(PlacementError, match=said):
        Placement(1, 1, 2, np.array(keys, dtype=np.int64), np.array(share))
