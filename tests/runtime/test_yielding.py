"""The transport lets models go first while they compute much of the time."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from runtime import cores, yielding
from runtime.worker import Worker
from runtime.yielding import Yielding, compute_here

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not let a thread choose"
)


@pytest.fixture
def start():
    """Starts a thread that begins with something and waits; gives its native id."""
    end, threads = threading.Event(), []

    def started(first=lambda: None):
        begun = threading.Event()

        def wait():
            first()
            begun.set()
            end.wait(60)

        thread = threading.Thread(target=wait)
        threads.append(thread)
        thread.start()
        assert begun.wait(10)
        return thread.native_id

    yield started
    end.set()
    for thread in threads:
        thread.join()
    for entry in os.listdir("/proc/self/task"):
        cores.settle(int(entry), cores.begun_as)


@pytest.fixture
def ran(monkeypatch):
    """Seconds that each thread ran so far, as the system says."""
    seconds = {}
    monkeypatch.setattr(yielding, "times", lambda thread: (seconds.get(thread, 0.0), 0.0))
    return seconds


def policy(thread):
    return os.sched_getscheduler(thread)


def test_the_others_wait_while_a_model_computes_and_no_longer_once_it_rests(start, ran):
    model, other = start(), start()
    watched = Yielding({model})
    watched.look(1.0)
    assert not watched.yields
    ran[model] = 0.5
    watched.look(1.0)
    assert watched.yields
    assert policy(model) == os.SCHED_OTHER, "it computes"
    assert policy(other) == policy(0) == os.SCHED_BATCH
    ran[model] = 0.7
    watched.look(1.0)
    assert watched.yields, "between the two bounds all stays as it is"
    ran[model] = 0.75
    watched.look(1.0)
    assert not watched.yields
    assert policy(other) == policy(0) == os.SCHED_OTHER


def test_a_thread_that_comes_later_yields_too(start, ran):
    model = start()
    watched = Yielding({model})
    watched.look(1.0)
    ran[model] = 0.5
    watched.look(1.0)
    later = start(lambda: cores.settle(0, os.SCHED_OTHER))
    assert policy(later) == os.SCHED_OTHER
    ran[model] = 1.0
    watched.look(1.0)
    assert policy(later) == os.SCHED_BATCH


def test_what_a_model_computed_before_it_was_watched_does_not_count(start, ran):
    model = start()
    ran[model] = 100.0
    watched = Yielding({model})
    watched.look(1.0)
    assert not watched.yields


def test_a_thread_that_ended_computes_no_more(start, ran):
    model, other = start(), start()
    watched = Yielding({model})
    ran[model] = 5.0
    watched.look(1.0)
    ran[model] = 5.5
    watched.look(1.0)
    assert watched.yields
    del ran[model]
    watched.look(1.0)
    assert not watched.yields
    assert policy(other) == os.SCHED_OTHER


def test_the_id_of_a_thread_that_ended_is_forgotten(start, ran):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    model = start()
    computing = {model, thread.native_id}
    Yielding(computing).look(1.0)
    assert computing == {model}


def test_threads_without_a_name_that_python_did_not_start_are_left_alone(start, ran, monkeypatch):
    model, native = start(), start()
    mine = [thread for thread in threading.enumerate() if thread.native_id != native]
    monkeypatch.setattr(yielding.threading, "enumerate", lambda: mine)
    watched = Yielding({model})
    watched.look(1.0)
    ran[model] = 0.5
    watched.look(1.0)
    assert watched.yields
    assert policy(native) == os.SCHED_OTHER, "a backend may compute in it"


async def test_the_thread_of_a_worker_is_one_that_computes(ran):
    worker = Worker("test")
    ended = asyncio.get_running_loop().create_future()
    worker.start(threading.get_native_id, 1, ended.set_result)
    model = (await ended).result()
    watched = Yielding()
    watched.look(1.0)
    ran[model] = 0.5
    watched.look(1.0)
    yields = watched.yields
    ran[model] = 0.5
    watched.look(1.0)
    worker.close()
    assert yields
    assert not watched.yields


async def test_it_looks_again_and_again_until_it_is_closed(monkeypatch):
    monkeypatch.setattr(yielding, "LOOK_SECONDS", 0.001)
    watched, looked = Yielding(set()), asyncio.Event()
    monkeypatch.setattr(watched, "look", lambda seconds: looked.set())
    watched.watch()
    for _ in range(2):
        await asyncio.wait_for(looked.wait(), 10)
        looked.clear()
    watched.close()
    await asyncio.sleep(0.01)
    looked.clear()
    await asyncio.sleep(0.01)
    assert not looked.is_set()


async def test_a_policy_that_somebody_gave_the_program_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(cores, "begun_as", os.SCHED_IDLE)
    watched = Yielding(set())
    watched.watch()
    assert watched._timer is None
    watched.close()


def test_compute_here_is_said_by_the_thread_itself(start, ran):
    model = start(compute_here)
    watched = Yielding()
    watched.look(1.0)
    ran[model] = 0.5
    watched.look(1.0)
    assert watched.yields
    watched.look(1.0)
    assert not watched.yields
