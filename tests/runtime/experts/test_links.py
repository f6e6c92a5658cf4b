from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import InvalidInput
from runtime.experts.links import LinkCosts, tokens_between
from runtime.experts.placement import Placement


def test_costs_add_up_and_new_devices_come_in():
    links = LinkCosts()
    links.add(np.array([[4.0, 0.0]]), np.array([[2e-6, 0.0]]))
    links.add(np.array([[0.0], [1.0]]), np.array([[2e-6], [3e-6]]))
    np.testing.assert_array_equal(links.tokens, [[4, 0], [1, 0]])
    np.testing.assert_allclose(links.us_per_token, [[1, np.nan], [3, np.nan]])


@pytest.mark.parametrize(
    ("tokens", "seconds"),
    [([[1.0]], [[1.0, 2.0]]), ([1.0], [1.0]), ([[-1.0]], [[1.0]]), ([[1.0]], [[np.nan]])],
)
def test_what_cannot_be_a_cost_is_refused(tokens, seconds):
    links = LinkCosts(1, 1)
    with pytest.raises(InvalidInput, match="no costs"):
        links.add(np.array(tokens), np.array(seconds))
    assert not links.tokens.any()


def test_tokens_go_to_the_devices_of_their_replicas():
    # One layer: expert 0 on devices 0 and 1 by halves, expert 1 on device 1.
    placement = Placement(1, 2, 2, np.array([0, 1, 3]), np.array([0.5, 0.5, 1.0]))
    sent = tokens_between(np.array([[[4, 1]], [[0, 2]]]), placement)
    np.testing.assert_array_equal(sent, [[2, 3], [0, 2]])
    with pytest.raises(InvalidInput, match=r"\[sources, 1, 2\]"):
        tokens_between(np.ones((1, 2, 2)), placement)
