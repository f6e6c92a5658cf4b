"""The load of experts of the real server process, counted against the requests that were sent."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from runtime.cli import main
from runtime.client import Client

ROWS = np.random.RandomState(5).standard_normal((30, 4)).astype(np.float32)


@pytest.fixture
def serve(start_server, write_toy, repository, tmp_path):
    write_toy("mixture")
    write_toy("linear")
    return lambda *options: start_server(repository, "--state", str(tmp_path / "kept"), *options)


@pytest.fixture
def stats(capsys):
    def stats(server, *options, code=0):
        capsys.readouterr()
        ended = main(["experts", "stats", "--url", server.metrics, *map(str, options)])
        said = capsys.readouterr()
        assert ended == code, said.err
        return said.err if code else said.out

    return stats


@pytest.fixture
def load_of(toys):
    """``[layers, experts]`` of rows, by NumPy."""
    return lambda rows: toys["mixture"].compute({"x": rows})["expert_load"].sum(0).tolist()


@pytest.fixture
def pairs_of(toys):
    """Layer and two experts that are called in one request at least, by NumPy."""

    def pairs_of(requests):
        loads = [toys["mixture"].compute({"x": rows})["expert_load"].sum(0) for rows in requests]
        return {
            (layer, int(one), int(other))
            for load in loads
            for layer, row in enumerate(load)
            for one, other in combinations(np.flatnonzero(row), 2)
        }

    return pairs_of


def send(server, rows, outputs=None):
    with Client(server.address) as client:
        return [client.infer("mixture", {"x": part}, outputs=outputs) for part in rows]


def test_what_answered_is_counted_to_the_token_and_kept(serve, stats, load_of, pairs_of, tmp_path):
    server = serve()
    # One row each, then three; of the latter some ask for the load themselves.
    assert set(send(server, np.split(ROWS[:12], 12))[0]) == {"y"}
    send(server, np.split(ROWS[12:24], 4))
    send(server, np.split(ROWS[24:], 2), ["expert_load"])
    (model,) = json.loads(stats(server, "--json"))["models"]
    assert (model["model"], model["version"], model["share"]) == ("mixture", "1", 1)
    assert model["requests"] == {"counted": 18, "dropped": 0}
    assert model["tokens"] == model["window"] == load_of(ROWS)
    # Hardly decayed after so few requests.
    np.testing.assert_allclose(model["decayed"], load_of(ROWS), rtol=0.02)
    sizes = [1] * 12 + [3] * 6
    together = pairs_of(np.split(ROWS, np.cumsum(sizes)[:-1]))
    for layer, pairs in enumerate(model["pairs"]):
        assert {(layer, *pair["experts"]) for pair in pairs} <= together
        assert pairs == sorted(pairs, key=lambda pair: -pair["requests"])
    assert any(model["pairs"])
    assert model["remembered"] == 18
    even = np.array(load_of(ROWS)[0])
    assert model["layers"][0]["balance"] == pytest.approx(1 - even.std() / even.mean())
    assert server.stop() == 0

    server = serve()
    send(server, [ROWS[:2]])
    (model,) = json.loads(stats(server, "--json"))["models"]
    assert (model["requests"]["counted"], model["window_requests"]) == (1, 19)
    assert model["remembered"] == 19
    np.testing.assert_allclose(
        model["decayed"], load_of(np.concatenate([ROWS, ROWS[:2]])), rtol=0.02
    )
    assert model["tokens"] == load_of(ROWS[:2])
    assert model["window"] == load_of(np.concatenate([ROWS, ROWS[:2]]))
    picture = tmp_path / "load.png"
    table = stats(server, "--png", picture)
    assert "mixture/1: the last 19 requests counted" in " ".join(table.split())
    assert "part of all 19 remembered" in " ".join(table.split())
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_several_workers_are_one(serve, stats, load_of):
    server = serve("--workers", "2")
    for row in np.split(ROWS, 30):
        send(server, [row])  # each over a connection of its own
    (model,) = json.loads(stats(server, "--json"))["models"]
    assert model["requests"]["counted"] == model["remembered"] == 30
    np.testing.assert_allclose(model["decayed"], load_of(ROWS), rtol=0.02)
    assert model["tokens"] == model["window"] == load_of(ROWS)


def test_checks_of_answers_do_not_count(serve, stats, load_of):
    server = serve("--shadow", "1")
    send(server, np.split(ROWS, 30))
    (model,) = json.loads(stats(server, "--json"))["models"]
    assert model["tokens"] == load_of(ROWS)


def test_nothing_is_counted_where_that_is_not_wanted(serve, stats):
    server = serve("--experts-load", "0")
    send(server, [ROWS[:2]])
    said = stats(server, code=1)
    assert "--experts-load above 0" in said
    assert said.count("\n") == 1
