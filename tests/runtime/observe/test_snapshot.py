"""Snapshots of a server: through JSON and back, and several processes as one."""

from __future__ import annotations

import json
import os

import pytest

from runtime.errors import ManifestError
from runtime.observe.snapshot import (
    BatchWork,
    Snapshot,
    VersionSnapshot,
    past_of,
    process_numbers,
    snapshot_from_dict,
    summed,
    work_of,
)
from runtime.statistics import CallTimes, Failure, Statistics


def work(calls=1, waiting=0, failed=()):
    statistics = Statistics()
    for _ in range(calls):
        statistics.called(CallTimes(3, (1_000_000,), 10_000, 20_000, 30_000))
    for reason in failed:
        statistics.failed(reason, 5)
    statistics.last_ms = 7
    return work_of(statistics, waiting)


def one(ready=True, **fields):
    version = VersionSnapshot("m", 2, ready, work(**fields))
    process = {"process_cpu_seconds_total": 2.0, "process_start_time_seconds": 50.0}
    return Snapshot((version,), {"ModelInfer NOT_FOUND": 1}, process)


def test_a_snapshot_goes_through_json_and_comes_back():
    snapshot = one(failed=[Failure.REJECTED])
    assert snapshot_from_dict(snapshot.to_dict()) == snapshot
    assert snapshot_from_dict(json.loads(json.dumps(snapshot.to_dict()))) == snapshot


def test_something_else_is_no_snapshot():
    with pytest.raises(ManifestError, match="'other', which is not known"):
        snapshot_from_dict({"other": 1})


def test_processes_together_did_what_each_did():
    both = summed([one(calls=1, waiting=1), one(calls=2, failed=[Failure.BACKEND])])
    (version,) = both.versions
    assert version.work == work(calls=3, waiting=1, failed=[Failure.BACKEND])
    assert both.failed_calls == {"ModelInfer NOT_FOUND": 2}
    assert both.process == {"process_cpu_seconds_total": 4, "process_start_time_seconds": 50}


def test_a_version_is_ready_where_every_process_has_it():
    (version,) = summed([one(), one(ready=False)]).versions
    assert not version.ready


def test_a_process_that_loads_still_takes_nothing_away():
    loading = Snapshot((VersionSnapshot("m", 2, False),))
    (version,) = summed([loading, one(calls=4)]).versions
    assert version.work == work(calls=4)


def test_no_counter_falls_when_a_process_ends():
    after = summed([one(calls=1)], ended=[one(calls=2, waiting=7)])
    (version,) = after.versions
    assert version.work == work(calls=3, waiting=0)
    assert after.failed_calls == {"ModelInfer NOT_FOUND": 2}
    assert after.process["process_cpu_seconds_total"] == 4


def test_what_an_ended_process_did_with_an_unloaded_model_vanishes():
    assert summed([Snapshot()], ended=[one()]).versions == ()


def test_processes_that_ended_count_as_much_together_as_each_by_itself():
    loading = Snapshot((VersionSnapshot("m", 2, False),))
    ended = [one(calls=1, waiting=7), Snapshot(), one(calls=2), loading]
    past = Snapshot()
    for snapshot in ended:
        past = past_of(snapshot, past)
    assert len(past.versions) == 1
    live = one(calls=4, waiting=1)
    assert summed([live], [past]) == summed([live], ended)
    assert summed([loading], [past]) == summed([loading], ended)


def test_nothing_is_the_sum_of_nothing():
    assert summed([]) == Snapshot()


def test_a_process_is_described_by_the_system():
    numbers = process_numbers()
    assert numbers["process_resident_memory_bytes"] > 1e6
    assert numbers == pytest.approx(process_numbers(os.getpid()), rel=0.5)


def test_calls_of_one_size_add_up_and_others_stay_apart():
    small, large = Statistics(), Statistics()
    small.called(CallTimes(1, (5,), 1, 2, 3))
    for rows in (1, 8):
        large.called(CallTimes(rows, (5,), 10, 20, 30))
    small.last_ms, large.last_ms = 3, 2
    both = work_of(large, 0) + work_of(small, 0)
    assert both.last_ms == 3
    assert both.batches == (BatchWork(1, 2, 11, 22, 33), BatchWork(8, 1, 10, 20, 30))
