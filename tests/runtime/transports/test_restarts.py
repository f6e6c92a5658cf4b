"""A process that served is always started again, one that cannot start only so often."""

from __future__ import annotations

from runtime.transports.restarts import ATTEMPTS, MOST_PAUSE_S, STEADY_SECONDS, Restarts


def test_one_that_served_is_started_again_however_often_it_is_killed():
    restarts = Restarts()
    pauses = [restarts.pause_after(0.5) for _ in range(2000)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == max(pauses) == MOST_PAUSE_S


def test_one_that_served_for_long_is_started_again_at_once():
    restarts = Restarts()
    for _ in range(10):
        restarts.pause_after(0.5)
    assert restarts.pause_after(STEADY_SECONDS + 1) == 0.1


def test_starts_that_fail_in_a_row_are_given_up():
    restarts = Restarts()
    assert None not in [restarts.pause_after(0.0) for _ in range(ATTEMPTS)]
    assert restarts.pause_after(0.0) is None


def test_one_that_served_meanwhile_gives_new_attempts():
    restarts = Restarts()
    for _ in range(3):
        assert None not in [restarts.pause_after(0.0) for _ in range(ATTEMPTS)]
        assert restarts.pause_after(0.1) is not None
