"""Which calls of a model are counted, and that requests do not see it."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from runtime.batch_call import Lane
from runtime.batch_settings import BatchSettings
from runtime.batching import Batcher
from runtime.errors import InvalidInput
from runtime.experts.feed import LoadFeed
from runtime.experts.load import ExpertLoad
from runtime.statistics import Statistics
from runtime.worker import Worker


class Mixture:
    """Sends row ``[e]`` to expert e of the only layer."""

    def __init__(self):
        self.names = []

    def __call__(self, arrays, names):
        self.names.append(list(names))
        x = arrays["x"]
        if (x < 0).any():
            raise InvalidInput("x is below 0")
        load = (x[:, :, None] == np.arange(3)).astype(np.int32)
        answers = {"y": x * 2, "expert_load": load}
        return {name: answers[name] for name in names}


@pytest.fixture
def model():
    return Mixture()


@pytest.fixture(params=["inline", "thread"])
def worker(request, monkeypatch):
    worker = Worker("test")
    monkeypatch.setattr(worker, "runs_inline", lambda size: request.param == "inline")
    yield worker
    worker.close()


@pytest.fixture
def feed():
    feed = LoadFeed(ExpertLoad(1, 3), 1.0, lambda arrays: None, "m/1")
    yield feed
    feed.close()


@pytest.fixture
def ask(model, worker, feed):
    """Answers to requests that come at one time."""

    def ask(*requests, rows=8, loads=feed):
        async def run():
            batcher = Batcher([Lane(model, worker)], BatchSettings(rows), Statistics(), loads)
            waits = [
                batcher.submit({"x": np.array(x, np.float32)[:, None]}, outputs)
                for x, outputs in requests
            ]
            return await asyncio.gather(*waits, return_exceptions=True)

        return asyncio.run(run())

    return ask


@pytest.mark.parametrize("rows", [0, 8])
def test_every_request_counts_once_and_gets_what_it_asked_for(ask, feed, rows):
    answers = ask(([0, 1], ["y"]), ([1], ["expert_load"]), ([2], ["expert_load", "y"]), rows=rows)
    assert [list(answer) for answer in answers] == [["y"], ["expert_load"], ["expert_load", "y"]]
    assert answers[0]["y"].tolist() == [[0], [2]]
    assert answers[1]["expert_load"].tolist() == [[[0, 1, 0]]]
    summary = feed.summary()
    assert (summary.requests, summary.tokens) == (3, ((1, 2, 1),))


def test_what_fails_is_not_counted(ask, feed):
    good, bad = ask(([0], ["y"]), ([-1], ["y"]))
    assert good["y"].tolist() == [[0]]
    assert isinstance(bad, InvalidInput)
    summary = feed.summary()
    assert (summary.requests, summary.tokens) == (1, ((1, 0, 0),))


def test_calls_that_are_not_drawn_compute_what_was_asked_for_alone(ask, feed, model, monkeypatch):
    monkeypatch.setattr(feed, "draws", lambda: False)
    ask(([0], ["y"]), ([1], ["y"]))
    assert {name for names in model.names for name in names} == {"y"}
    assert feed.summary().requests == 0


def test_nobody_counts_where_there_is_nothing_to_count_into(ask, model):
    ask(([0], ["y"]), loads=None)
    assert model.names == [["y"]]
