from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from runtime.errors import PlacementError
from runtime.experts.devices import Devices, equal_devices
from runtime.experts.link_prices import Links, suited
from runtime.experts.links import LinkCosts
from runtime.experts.model import StepModel, step_of
from runtime.experts.plan import plan, reshare
from runtime.experts.policies import Setting
from runtime.experts.replay import Shares, replay
from runtime.experts.simple import place_once
from runtime.experts.terms import FREE, Terms
from runtime.experts.trace import Trace
from runtime.experts.traces import drifting

LOAD = np.exp(np.random.default_rng(0).standard_normal((3, 32)))


def terms(*us, token_us=1.0):
    return Terms(links=Links(np.array([us], dtype=float), token_us=token_us))


def least_sum(pace, price):
    """Fullest device and slowest link for loads of any size, by linear programming."""
    count = len(pace)
    rows = np.zeros((2 * count, count + 2))
    rows[:count, :count], rows[:count, count] = np.diag(1 / pace), -1
    rows[count:, :count], rows[count:, count + 1] = np.diag(price), -1
    total = np.append(np.ones(count), (0, 0))[None]
    cost = np.append(np.zeros(count), (1, 1))
    return linprog(cost, rows, np.zeros(2 * count), total, [count]).fun


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 7))
def test_what_devices_should_take_is_the_optimum_of_the_linear_program(seed, count):
    rng = np.random.default_rng(seed)
    pace = rng.uniform(0.5, 2, count)
    pace /= pace.mean()
    price = rng.uniform(0, 2, count) * (rng.random(count) > 0.2)
    found = suited(Links(price[None], token_us=1.0), pace)
    assert found.least == pytest.approx(least_sum(pace, price), rel=1e-6)
    assert found.speed.mean() == pytest.approx(1)
    part = found.speed / pace
    if part.min() > 0.0501 * part.max():  # no device is kept above what it should take
        both = (found.speed / pace).max() + (found.speed * price).max()
        assert both == pytest.approx(found.least)


def test_sources_count_as_many_tokens_as_they_send():
    us = np.array([[1.0, 3.0], [5.0, 3.0]])
    np.testing.assert_allclose(Links(us).us_to(2), [3, 3])
    np.testing.assert_allclose(Links(us, np.array([3.0, 1.0])).us_to(2), [2, 3])
    costs = LinkCosts()
    costs.add(np.array([[6.0, 3.0], [1.0, 2.0]]), np.array([[6e-6, 9e-6], [5e-6, 6e-6]]))
    np.testing.assert_allclose(Links.from_costs(costs).us_to(2), [2, 3])


@pytest.mark.parametrize(
    "us", [(0.1,) * 7 + (0.3,), (0.1,) * 7 + (2.0,), tuple(np.linspace(0.1, 2, 8))]
)
def test_with_places_enough_a_plan_costs_its_lower_bound(us):
    sure = plan(LOAD, equal_devices(8, 18), 40, terms=terms(*us)).certificate
    assert sure.cost.links > 0
    assert sure.cost.total == pytest.approx(sure.lower_bound, rel=1e-3)
    assert sure.cost.total == sure.cost.compute + sure.cost.links


@pytest.mark.parametrize("seed", range(3))
def test_with_no_place_to_spare_devices_hard_to_reach_hold_light_experts(seed):
    load = np.exp(np.random.default_rng(seed).standard_normal((6, 128)))
    priced = Terms(links=Links(np.array([[0.13] * 12 + [0.86] * 4])))
    sure = plan(load, equal_devices(16, 6 * 9), 144, terms=priced).certificate
    assert sure.cost.total < 1.2 * sure.lower_bound


def test_links_as_fast_for_all_devices_change_nothing_but_the_cost():
    devices = equal_devices(8, 18)
    free = plan(LOAD, devices, 40)
    made = plan(LOAD, devices, 40, terms=terms(*[0.5] * 8))
    assert np.array_equal(free.placement.keys, made.placement.keys)
    assert np.array_equal(free.placement.share, made.placement.share)
    assert made.certificate.cost.links == pytest.approx(0.5)
    assert made.certificate.gap == pytest.approx(0, abs=1e-6)


def test_half_of_the_devices_are_relieved_from_where_it_pays():
    """Below a token's compute what they lose costs the others more."""

    def part(gap):
        devices = equal_devices(8, 24)
        placed = plan(LOAD, devices, 40, terms=terms(*[0.0] * 4, *[gap] * 4)).placement
        return placed.device_load(LOAD)[:, 4:].sum() / LOAD.sum()

    assert part(0.9) == pytest.approx(0.5)
    assert part(1.1) < 0.3


def test_few_moves_and_shares_alone_leave_a_device_that_became_hard_to_reach():
    devices = equal_devices(8, 18)
    before = plan(LOAD, devices, 40).placement
    priced = terms(*[0.1] * 7, 1.0)
    sure = plan(LOAD, devices, 40, before, moves=12, terms=priced).certificate
    assert 0 < sure.moves <= 12
    assert sure.as_it_is.links == pytest.approx(1.0)
    assert sure.as_it_is.total > sure.reshared.total > sure.cost.total
    shared = reshare(before, LOAD, devices, priced)
    assert np.array_equal(shared.keys, before.keys)
    assert (shared.device_load(LOAD)[:, 7] < before.device_load(LOAD)[:, 7]).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 16), st.integers(1, 6), st.integers(0, 9))
def test_no_plan_claims_less_than_its_bound_and_none_costs_more_for_new_shares(
    seed, experts, count, more
):
    rng = np.random.default_rng(seed)
    load = np.exp(rng.standard_normal((4, 2, experts)))
    devices = Devices(
        rng.uniform(0.5, 2, count), np.full(count, -(-2 * (experts + more) // count)),
        np.arange(count) % 2 * (count > 1),
    )  # fmt: skip
    links = Links(rng.exponential(size=(2, count)) * rng.choice([0.1, 1, 10]), token_us=1.0)
    given_terms = Terms(off_home=0.2 * (seed % 2), memory=0.1 * (seed % 3), links=links)
    first = plan(load[:3], devices, experts + more, terms=given_terms)
    second = plan(load, devices, experts + more, first.placement, moves=seed % 5, terms=given_terms)
    for made in (first, second):
        assert made.certificate.cost.total >= made.certificate.lower_bound - 1e-9
        assert (made.placement.held <= devices.memory).all()


def test_a_step_goes_by_the_links_that_are_given():
    model = StepModel(1e-9, 1e-9)
    links = Terms(links=Links(np.array([[1.0, 2.0], [3.0, 6.0]])))
    counts = np.array([[5, 1, 2, 0]])
    step = step_of(place_once(1, 4, 2), counts, equal_devices(2, 2), model, links)
    assert step.link_ms == pytest.approx(0.012)  # 6 tokens of 2 us, 2 of 4 us


def test_a_replay_is_faster_where_the_plan_knows_the_links():
    trace = drifting(7, 7, (4, 64), keeps=0.97)
    links = Links(np.array([[0.05] * 7 + [0.5]]))
    on = Setting(equal_devices(8, 40), 72, moves=16, terms=Terms(links=links))
    aware = replay(trace, "ours", on, shares=Shares.PLANNED)
    theirs = replay(trace, "eplb", on)
    assert aware.step_ms(50) < 0.7 * theirs.step_ms(50)
    assert aware.link_ms < 0.5 * theirs.link_ms


def test_the_rule_of_thresholds_hears_of_the_links():
    counts = np.array([[[40, 10, 10, 10, 10, 10, 5, 5]]] * 2)
    seen = []
    for us in ([1.0] * 4, [1.0, 1.0, 1.0, 9.0]):
        links = Terms(links=Links(np.array([us])))
        setting = Setting(equal_devices(4, 8), 24, terms=links)
        done = replay(Trace(counts), "threshold", setting, history=1)
        seen.append(done.windows[0].moved)
    # The two experts on the last device come from below all thresholds to two replicas more.
    assert seen == [16, 20]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("us", "weight", "token_us"),
    [(1e-320, None, 1), (1, [1e308, 1e308], 1), (1, [1e-320, 0], 1), (1e9, None, 1e-9)],
)
def test_the_largest_and_the_least_values_are_planned_with(us, weight, token_us):
    links = Links(np.full((2, 8), us), None if weight is None else np.array(weight), token_us)
    sure = plan(LOAD, equal_devices(8, 18), 40, terms=Terms(links=links)).certificate
    assert sure.cost.links == pytest.approx(us / token_us)
    assert sure.cost.total == pytest.approx(sure.lower_bound)


@pytest.mark.parametrize(
    ("us", "weight", "said"),
    [
        ([1.0], None, r"shape is \[1\]; wanted \[sources, devices\]"),
        (np.ones((0, 2)), None, "none 0"),
        ([[1.0, np.nan]], None, "source 0 to device 1 is not a number"),
        ([[1.0, 1.0], [-1.0, 1.0]], None, "source 1 to device 0 is negative"),
        (
            [[np.inf, 1.0]],
            None,
            "source 0 to device 0 is without end: the device cannot be reached",
        ),
        ([[1.0, 1e300]], None, r"source 0 to device 1 is above 1e\+09 microseconds"),
        ([[1.0, 1.0]], [1.0, 2.0], r"weights have shape \[2\]; wanted one for each of 1"),
        ([[1.0, 1.0]], [0.0], "all 0"),
        ([[1.0, 1.0]], [np.nan], "not finite"),
    ],
)
def test_what_cannot_be_links_is_refused(us, weight, said):
    with pytest.raises(PlacementError, match=said):
        Links(np.array(us), None if weight is None else np.array(weight))


def test_links_for_other_devices_and_unmeasured_ones_are_refused():
    with pytest.raises(PlacementError, match="for 3 devices; there are 8"):
        plan(LOAD, equal_devices(8, 18), 40, terms=terms(1, 1, 1))
    with pytest.raises(PlacementError, match="for 3 devices; there are 2"):
        step_of(
            place_once(1, 4, 2), np.ones((1, 4)), equal_devices(2, 2), StepModel(), terms(1, 1, 1)
        )
    for unfit in (0, -1, 1e-320, 1e300, float("nan")):
        with pytest.raises(PlacementError, match=r"token_us is .*; give 1e-09 to 1e\+09"):
            terms(1, token_us=unfit)
    costs = LinkCosts()
    costs.add(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]))
    with pytest.raises(PlacementError, match="source 0 to device 1 is unknown"):
        Links.from_costs(costs)
    assert FREE.links is None
