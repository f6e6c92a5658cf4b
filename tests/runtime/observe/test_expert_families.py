"""The load of experts as metrics, of one process and of several."""

from __future__ import annotations

import json

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runtime.cli import main
from runtime.errors import InvalidInput
from runtime.experts.summary import ExpertsSummary, experts_of_processes
from runtime.observe.collector import exposition
from runtime.observe.endpoint import MetricsEndpoint
from runtime.observe.snapshot import (
    Snapshot,
    VersionSnapshot,
    snapshot_from_dict,
    summed,
    work_of,
)
from runtime.statistics import Statistics
from runtime.watch.experts import loads_from_samples

LOAD = ExpertsSummary(0.5, 3, 1, 2, ((6, 0), (3, 3)), ((4, 0), (0, 0)))


def snapshot(load, version=1):
    return Snapshot((VersionSnapshot("m", version, True, work_of(Statistics(), 0), None, load),))


def samples_of(taken):
    families = text_string_to_metric_families(exposition(lambda: taken)().decode())
    return [sample for family in families for sample in family.samples]


def test_metrics_say_what_was_counted():
    (load,) = loads_from_samples(samples_of(snapshot(LOAD)))
    assert (load.model, load.version, load.share) == ("m", "1", 0.5)
    assert load.requests == {"counted": 3, "dropped": 1}
    assert (load.tokens.tolist(), load.window.tolist()) == ([[6, 0], [3, 3]], [[4, 0], [0, 0]])
    busy, idle = load.layers()
    assert (busy.busiest, busy.least, busy.unused) == (0, 1, 1)
    assert (busy.balance, busy.max_over_mean) == (0, 2)
    assert (idle.tokens, idle.balance) == (0, None)
    assert json.loads(json.dumps(load.to_dict()))["layers"][0]["tokens"] == 4


def test_scores_are_those_of_the_window_and_of_layers_with_tokens_alone():
    scores = {
        (sample.name, sample.labels["layer"]): sample.value
        for sample in samples_of(snapshot(LOAD))
        if sample.name in ("twinport_expert_balance", "twinport_expert_max_over_mean")
    }
    assert scores == {
        ("twinport_expert_balance", "0"): 0, ("twinport_expert_max_over_mean", "0"): 2,
    }  # fmt: skip


def test_processes_add_up_and_one_that_ended_leaves_its_counts_but_not_its_window():
    both = summed([snapshot(LOAD), snapshot(LOAD)], [snapshot(LOAD)])
    (load,) = loads_from_samples(samples_of(snapshot_from_dict(both.to_dict())))
    np.testing.assert_array_equal(load.tokens, [[18, 0], [9, 9]])
    np.testing.assert_array_equal(load.window, [[8, 0], [0, 0]])
    assert (load.requests, load.window_requests) == ({"counted": 9, "dropped": 3}, 4)


def test_a_model_of_another_form_is_not_added():
    other = ExpertsSummary(1, 1, 0, 1, ((1,),), ((1,),))
    assert experts_of_processes(LOAD, other) == LOAD
    assert experts_of_processes(None, LOAD) == LOAD
    assert experts_of_processes(None, LOAD, ended=True) is None


def test_models_without_experts_have_no_such_metrics_and_are_said_to():
    samples = samples_of(snapshot(None))
    assert not [sample for sample in samples if "expert" in sample.name]
    with pytest.raises(InvalidInput, match="no load of experts is counted"):
        loads_from_samples(samples)
    with pytest.raises(InvalidInput, match="of 'other'"):
        loads_from_samples(samples_of(snapshot(LOAD)), "other")


def test_versions_come_in_their_order_and_one_can_be_named():
    taken = Snapshot(tuple(snapshot(LOAD, number).versions[0] for number in (10, 9)))
    samples = samples_of(taken)
    assert [load.version for load in loads_from_samples(samples, "m")] == ["9", "10"]
    assert [load.version for load in loads_from_samples(samples, "m/10")] == ["10"]


def test_one_picture_is_of_one_version(tmp_path, capsys):
    taken = Snapshot(tuple(snapshot(LOAD, number).versions[0] for number in (1, 2)))
    picture = tmp_path / "load.png"
    with MetricsEndpoint("127.0.0.1", 0, exposition(lambda: taken)) as endpoint:
        command = ["experts", "stats", "--url", endpoint.url, "--png", str(picture)]
        assert main(command) == 2
        assert "there are m/1, m/2" in capsys.readouterr().err
        assert not picture.exists()
        assert main([*command, "--model", "m/2"]) == 0
    assert picture.stat().st_size > 1000
