from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def trace(tmp_path, twinport):
    file = tmp_path / "drift.npz"
    ran = twinport("experts", "trace", file, "--layers", "3", "--experts", "32", "--windows", "6")
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"{file}: 6 windows, 3 layers, 32 experts, Gini 0.")
    return file


def test_replay_prints_a_row_for_every_policy(trace, twinport):
    ran = twinport("experts", "replay", trace, "--devices", "8")
    assert ran.code == 0, ran.err
    rows = [line.split()[0] for line in ran.out.splitlines() if line.strip()]
    assert [row for row in rows if row in ("none", "threshold", "eplb", "ours")] == [
        "none", "threshold", "eplb", "ours",
    ]  # fmt: skip


def test_json_has_every_metric_and_the_picture_is_drawn(trace, twinport, tmp_path):
    picture = tmp_path / "levels.png"
    on = ("--devices", "8", "--nodes", "2", "--policy", "ours", "--shares", "live")
    ran = twinport(
        "experts", "replay", trace, *on, "--off-home", "0.2", "--json", "--plot", picture
    )
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)["policies"][0]
    assert record["policy"] == "ours"
    assert 0 < record["balance"] <= 1
    assert record["max_over_mean"] >= 1
    assert 0 < record["step_ms_p50"] <= record["step_ms_p99"]
    assert {"utilization", "off_home", "transfers", "transfer_gb", "reward", "plan_ms"} < set(
        record
    )
    assert 1 < record["touched"] <= 8
    assert record["apart"] is None
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["zipf", "lognormal", "topics"])
def test_every_kind_of_trace_can_be_replayed(kind, tmp_path, twinport):
    file = tmp_path / "t.npz"
    drawn = twinport("experts", "trace", file, "--kind", kind, "--layers", "2", "--experts", "16")
    assert drawn.code == 0, drawn.err
    ran = twinport("experts", "replay", file, "--devices", "4", "--policy", "ours")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--slots", "31", "--policy", "ours"], 1, "slots: 31 a layer do not hold 32 experts"),
        (["--devices", "9", "--nodes", "2"], 1, "9 devices do not make 2 equal nodes"),
        (["--replica-mb", "inf"], 2, "'--replica-mb': inf is not in the range"),
        (["--touch", "1"], 2, "--touch needs a trace that counts"),
        (["--speed", "1,fast"], 2, "no list of numbers"),
        (["--speed", "1,2"], 1, "there are 2 speeds"),
        (["--plot", "levels.gif"], 1, "another ending"),
        (["--batch", "0"], 2, "--batch"),
        (["--token-us", "nan"], 2, "'--token-us': nan is not in the range"),
        (["--links", "nowhere.json"], 1, "there are no links nowhere.json"),
        (["--policy", "best"], 2, "'best' is not one of"),
    ],
)
def test_what_cannot_be_done_is_one_line(trace, twinport, options, code, said):
    ran = twinport("experts", "replay", trace, *options)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err


def test_a_file_that_is_no_trace_is_one_line(twinport, tmp_path):
    np.savez(tmp_path / "other.npz", load=np.ones(3))
    ran = twinport("experts", "replay", tmp_path / "other.npz")
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "counts is nothing; wanted integers [windows, layers, experts]" in ran.err


def test_slots_are_rounded_up_so_that_every_policy_can_place(trace, twinport):
    ran = twinport("experts", "replay", trace, "--devices", "7")
    assert ran.code == 0, ran.err


def test_a_small_model_gets_one_move_a_layer_at_least(tmp_path, twinport):
    file = tmp_path / "small.npz"
    form = ("--layers", "3", "--experts", "8", "--windows", "8", "--keeps", "0.5")
    assert twinport("experts", "trace", file, *form).code == 0

    def transfers(*more):
        ran = twinport("experts", "replay", file, "--devices", "4", "--policy", "ours", "--json",
                       *more)  # fmt: skip
        return json.loads(ran.out)["policies"][0]["transfers"]

    assert transfers() == transfers("--moves", "3") > 0


def test_links_from_a_file_are_planned_for_and_timed(trace, twinport, tmp_path):
    file = tmp_path / "links.json"
    file.write_text(json.dumps([[0.1] * 7 + [2.0]]))

    def record(*more):
        ran = twinport("experts", "replay", trace, "--devices", "8", "--json", *more)
        assert ran.code == 0, ran.err
        return {each["policy"]: each for each in json.loads(ran.out)["policies"]}

    linked = record("--links", file)
    assert linked["ours"]["link_ms"] < 0.5 * linked["eplb"]["link_ms"]
    assert linked["ours"]["step_ms_p50"] < linked["eplb"]["step_ms_p50"]
    slow = record("--links", file, "--token-us", "18")
    assert slow["eplb"]["link_ms"] == linked["eplb"]["link_ms"]
    assert slow["eplb"]["step_ms_p50"] > linked["eplb"]["step_ms_p50"]
    other = twinport("experts", "replay", trace, "--devices", "4", "--links", file)
    assert (other.code, other.out, other.err.count("\n")) == (1, "", 1)
    assert "links: the shape is [1, 8], for 8 devices; there are 4" in other.err


def test_touched_and_apart_have_columns_and_apart_is_a_dash_where_nobody_counted(
    trace, twinport, tmp_path
):
    def last_row(file):
        ran = twinport("experts", "replay", file, "--devices", "8", "--policy", "none")
        head, row = (
            line for line in ran.out.splitlines() if line.strip().startswith(("policy", "none"))
        )
        at = head.index("touched"), head.index("apart") + len("apart")
        return row[slice(*at)].split()

    assert last_row(trace)[1] == "-"
    with np.load(trace) as read:
        arrays = dict(read)
    np.savez(tmp_path / "pairs.npz", **arrays, together=np.ones((3, 32, 32)))
    touched, apart = last_row(tmp_path / "pairs.npz")
    assert 1 < float(touched) < 8
    assert apart == "90.3%"  # 28 of 31 companions
