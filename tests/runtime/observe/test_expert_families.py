"""The load of experts as metrics, of one process and of several."""

from __future__ import annotations

import dataclasses
import json
import re

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
    past_of,
    snapshot_from_dict,
    summed,
    work_of,
)
from runtime.statistics import Statistics
from runtime.watch.experts import loads_from_samples

PAIRS = (((0, 1, 2.5),), ())
LOAD = ExpertsSummary(
    0.5, 3, 1, 2, ((6, 0), (3, 3)), ((4, 0), (0, 0)), ((1.5, 2.25), (0.0, 0.0)), 7, PAIRS
)


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
    assert load.decayed.tolist() == [[1.5, 2.25], [0, 0]]
    assert (load.remembered, load.pairs) == (7, [[(0, 1, 2.5)], []])
    busy, idle = load.layers()
    assert (busy.busiest, busy.lately, busy.least, busy.unused) == (0, 1, 1, 1)
    assert (busy.balance, busy.max_over_mean) == (0, 2)
    assert (idle.tokens, idle.balance) == (0, None)
    told = json.loads(json.dumps(load.to_dict()))
    assert told["layers"][0]["tokens"] == 4
    assert told["decayed"] == [[1.5, 2.25], [0, 0]]
    assert told["pairs"] == [[{"experts": [0, 1], "requests": 2.5}], []]


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
    np.testing.assert_array_equal(load.decayed, [[3, 4.5], [0, 0]])
    assert (load.remembered, load.pairs) == (14, [[(0, 1, 5)], []])


def test_processes_that_ended_count_together_in_the_form_that_the_last_one_had():
    former = ExpertsSummary(1, 1, 0, 1, ((1,),), ((1,),), ((1.0,),), 1, ((),))
    ended = [snapshot(former), snapshot(LOAD), snapshot(None), snapshot(LOAD)]
    past = Snapshot()
    for each in ended:
        past = past_of(each, past)
    assert past.versions[0].experts.pairs is None, "they would grow with each process"
    assert summed([snapshot(LOAD)], [past]) == summed([snapshot(LOAD)], ended)


def test_pairs_of_processes_are_added_pair_by_pair_and_ranked_anew():
    one = dataclasses.replace(LOAD, pairs=(((0, 1, 5.0), (0, 2, 4.0)), ()))
    other = dataclasses.replace(LOAD, pairs=(((0, 2, 3.0), (1, 2, 2.0)), ((0, 1, 1.0),)))
    both = experts_of_processes(one, other)
    assert both.pairs == (((0, 2, 7.0), (0, 1, 5.0), (1, 2, 2.0)), ((0, 1, 1.0),))
    uncounted = dataclasses.replace(LOAD, pairs=None)
    assert experts_of_processes(one, uncounted).pairs is None


def test_the_strongest_pairs_of_a_layer_are_shown_and_none_where_none_are_counted():
    many = tuple((0, other, 100.0 - other) for other in range(1, 65))
    table = ((1,) * 65,)
    whole = ExpertsSummary(1, 1, 0, 1, table, table, table, 100, (many,))
    (load,) = loads_from_samples(samples_of(snapshot(whole)))
    assert load.pairs == [list(many[:16])]
    uncounted = dataclasses.replace(whole, pairs=None)
    (load,) = loads_from_samples(samples_of(snapshot(uncounted)))
    assert (load.pairs, load.to_dict()["pairs"]) == (None, None)


def test_a_model_of_another_form_is_not_added():
    other = ExpertsSummary(1, 1, 0, 1, ((1,),), ((1,),), ((1.0,),), 1, ((),))
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


@pytest.fixture
def stats(capsys):
    """Runs ``twinport experts stats`` on a text of metrics; gives its code and its words."""

    def stats(text, *options):
        with MetricsEndpoint("127.0.0.1", 0, text.encode) as endpoint:
            code = main(["experts", "stats", "--url", endpoint.url, *options])
        said = capsys.readouterr()
        return code, said.err if code else said.out

    return stats


@pytest.fixture
def text():
    return exposition(lambda: snapshot(LOAD))().decode()


def test_tables_say_who_is_busy_lately_and_who_is_called_together(stats, text):
    code, said = stats(text)
    assert code == 0
    lines = [line.split() for line in said.splitlines()]
    layer = "0 4 0 (100.0%) 1 (60.0%) 1 (0.0%) 1 0.000 2.000"
    assert layer.split() in lines
    assert ["0", "0", "and", "1", "(36%)"] in lines
    assert ["1", "-"] in lines
    assert "part of all 7 remembered" in " ".join(said.split())


def test_a_layer_that_calls_one_of_many_experts_has_a_negative_balance(stats):
    window = ((9, 0, 0, 0, 0),)
    load = dataclasses.replace(LOAD, tokens=window, window=window, decayed=window, pairs=((),))
    code, said = stats(exposition(lambda: snapshot(load))().decode())
    assert code == 0, said
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert "0 9 0 (100.0%) 0 (100.0%) 1 (0.0%) 4 -1.000 5.000" in lines


def test_pairs_have_no_part_of_no_requests(stats, text):
    whole = re.sub(r"(?m)^(twinport_expert_remembered_requests\{.*\}) .*$", r"\1 0", text)
    assert whole != text
    code, said = stats(whole)
    assert code == 0, said
    assert "0 and 1" not in said
    assert "part of all 0 remembered" in " ".join(said.split())


def test_no_table_of_pairs_where_there_are_none(stats):
    load = dataclasses.replace(LOAD, pairs=((), ()))
    code, said = stats(exposition(lambda: snapshot(load))().decode())
    assert (code, "together" in said) == (0, False)


@pytest.mark.parametrize(
    ("begins", "becomes", "word"),
    [
        ('twinport_expert_window_tokens{expert="0",layer="0"', "VALUE NaN", "is nan"),
        ('twinport_expert_tokens_total{expert="0",layer="0"', "VALUE +Inf", "is inf"),
        ('twinport_expert_decayed_tokens{expert="0",layer="0"', "VALUE -1", "is -1"),
        ("twinport_expert_window_requests{", "VALUE NaN", "is nan"),
        ('twinport_expert_tokens_total{expert="1",layer="1"', "", "lack some experts"),
        ("twinport_expert_decayed_tokens{", "", "no twinport_expert_decayed_tokens"),
        ("twinport_expert_remembered_requests{", "", "no twinport_expert_remembered_requests"),
        ('twinport_expert_tokens_total{expert="1",layer="1"', 'layer="-1"', "labels"),
        ('twinport_expert_tokens_total{expert="1",layer="1"', 'layer="x"', "labels"),
        ('twinport_expert_window_tokens{expert="1",layer="1"', 'layer="999999999999"', "lack"),
        ("twinport_expert_pair_requests{", 'layer="2"', "lack"),
        ("twinport_expert_pair_requests{", 'other="2"', "lack"),
        ("twinport_expert_pair_requests{", 'expert="1"', "labels"),
    ],
)
def test_numbers_that_cannot_be_are_one_line(stats, text, begins, becomes, word):
    def changed(line):
        if not line.startswith(begins):
            return line
        if becomes.startswith("VALUE"):
            return f"{line.rpartition(' ')[0]} {becomes.partition(' ')[2]}"
        name = becomes.partition("=")[0]
        return re.sub(rf'\b{name}="\d+"', becomes, line) if becomes else None

    lines = list(filter(None, map(changed, text.splitlines())))
    assert lines != text.splitlines()
    code, said = stats("\n".join(lines) + "\n")
    assert code == 1
    assert said.count("\n") == 1
    assert word in said


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
