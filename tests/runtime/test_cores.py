"""Threads that share a lock share a core, and move on where others want it."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from runtime import cores
from runtime.cores import SharedCore, roam, threads_named

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not let a thread choose"
)
ALLOWED = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
several = pytest.mark.skipif(len(ALLOWED) < 2, reason="there is one core")


@pytest.fixture
def sleepers():
    """Two threads that wait, by native id."""
    end, ready = threading.Event(), threading.Barrier(3)

    def sleep():
        ready.wait()
        end.wait(60)

    threads = [threading.Thread(target=sleep, name="sleeper") for _ in "ab"]
    for thread in threads:
        thread.start()
    ready.wait()
    yield [thread.native_id for thread in threads]
    end.set()
    for thread in threads:
        thread.join()


@several
def test_threads_come_together_on_one_core(sleepers):
    shared = SharedCore(sleepers)
    assert [os.sched_getaffinity(thread) for thread in sleepers] == [{shared.core}] * 2
    assert [os.sched_getscheduler(thread) for thread in sleepers] == [os.SCHED_BATCH] * 2
    assert os.sched_getaffinity(0) == set(ALLOWED), "others run where they did"
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@several
def test_they_move_where_they_are_kept_waiting(sleepers, monkeypatch):
    waited_s = 0.0
    monkeypatch.setattr(cores, "times", lambda _thread: (0.0, waited_s))
    shared = SharedCore(sleepers)
    first = shared.core
    shared.look(1.0)
    assert shared.core == first
    waited_s = 0.2
    shared.look(1.0)
    assert shared.core == first, "a little is nothing"
    waited_s = 0.9
    shared.look(1.0)
    assert shared.core != first
    assert os.sched_getaffinity(sleepers[0]) == {shared.core}
    second = shared.core
    shared.look(1.0)
    assert shared.core == second, "what was waited before does not count again"


@several
def test_that_one_of_them_runs_while_the_other_waits_is_as_it_should_be(sleepers, monkeypatch):
    times = {}
    monkeypatch.setattr(cores, "times", lambda thread: times.get(thread, (0.0, 0.0)))
    shared = SharedCore(sleepers)
    first = shared.core
    shared.look(1.0)
    times = {sleepers[0]: (0.7, 0.1), sleepers[1]: (0.1, 0.8)}
    shared.look(1.0)
    assert shared.core == first
    times = {sleepers[0]: (1.0, 0.2), sleepers[1]: (0.1, 1.5)}
    shared.look(1.0)
    assert shared.core != first, "the core was somebody else's for 0.4 s"


@several
def test_what_was_started_at_idle_priority_stays_there(sleepers, monkeypatch):
    monkeypatch.setattr(cores, "begun_as", os.SCHED_IDLE)
    for thread in sleepers:
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    shared = SharedCore(sleepers)
    assert [os.sched_getscheduler(thread) for thread in sleepers] == [os.SCHED_IDLE] * 2
    assert os.sched_getaffinity(sleepers[0]) == {shared.core}


def test_with_one_core_there_is_nothing_to_move_to(sleepers):
    shared = SharedCore(sleepers, cores=ALLOWED[:1])
    assert shared.core is None
    shared.watch()
    assert [os.sched_getaffinity(thread) for thread in sleepers] == [set(ALLOWED[:1])] * 2


def test_where_the_system_gives_no_choice_all_stays_as_it_was(sleepers):
    SharedCore(sleepers, cores=()).look(1.0)
    assert [os.sched_getaffinity(thread) for thread in sleepers] == [set(ALLOWED)] * 2
    assert [os.sched_getscheduler(thread) for thread in sleepers] == [os.SCHED_OTHER] * 2


def test_a_thread_that_has_ended_is_no_error():
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    SharedCore([thread.native_id]).look(1.0)


async def test_it_looks_again_and_again_until_it_is_closed(sleepers, monkeypatch):
    looked = asyncio.Event()
    monkeypatch.setattr(cores, "LOOK_SECONDS", 0.001)
    shared = SharedCore(sleepers, cores=[ALLOWED[0], ALLOWED[-1]])
    monkeypatch.setattr(shared, "look", looked.set)
    shared.watch()
    for _ in range(2):
        await looked.wait()
        looked.clear()
    shared.close()


@several
def test_what_is_started_from_a_bound_thread_may_roam():
    found = []

    def bound():
        os.sched_setaffinity(0, {ALLOWED[0]})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        for first in (lambda: None, roam):
            thread = threading.Thread(
                target=lambda first=first: (
                    first(),
                    found.append((os.sched_getaffinity(0), os.sched_getscheduler(0))),
                )
            )
            thread.start()
            thread.join()

    thread = threading.Thread(target=bound)
    thread.start()
    thread.join()
    assert found == [({ALLOWED[0]}, os.SCHED_BATCH), (set(ALLOWED), os.SCHED_OTHER)]


def test_threads_are_found_by_name():
    name = Path("/proc/self/comm").read_text("utf-8").strip()
    assert os.getpid() in threads_named(name)
    assert threads_named("nobody is called so") == set()
