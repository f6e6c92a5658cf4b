"""The load of experts is summed up beside the event loop, which answers requests meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest

from runtime.experts.feed import LoadFeed
from runtime.experts.load import ExpertLoad
from runtime.observe.snapshot import snapshot_from_dict
from runtime.server import Life
from runtime.settings import ServerSettings
from runtime.transports import worker_process

ROWS = np.random.RandomState(5).standard_normal((8, 4)).astype(np.float32)


@pytest.fixture
def ranked(monkeypatch):
    """The threads that summed up and ranked, in their order."""
    threads = []

    def noted(kind, name):
        function = getattr(kind, name)

        def note(*args):
            threads.append((name, threading.current_thread()))
            return function(*args)

        monkeypatch.setattr(kind, name, note)

    noted(LoadFeed, "summary")
    noted(ExpertLoad, "strongest_pairs")
    return threads


@pytest.fixture
async def life(write_toy, repository, tmp_path):
    """A server without a transport, whose mixture answered eight rows."""
    write_toy("mixture")
    lines = []
    life = Life(ServerSettings(repository, state=tmp_path / "state", metrics_port=0), lines.append)
    await life.load()
    await life._repository.model("mixture").infer({"x": ROWS}, ["y"])
    yield life
    if life._metrics is not None:
        life._metrics.close()
    life._repository.close()


async def test_metrics_rank_pairs_in_another_thread_than_the_loop(life, ranked):
    life.open_metrics()
    with await asyncio.to_thread(urlopen, life._metrics.url) as answer:
        text = answer.read().decode()
    assert 'twinport_expert_pair_requests{expert="' in text
    assert [name for name, _ in ranked] == ["summary", "strongest_pairs"]
    assert threading.current_thread() not in {thread for _, thread in ranked}


async def test_a_worker_tells_its_parent_without_ranking_on_the_loop(life, ranked, tmp_path):
    commands = asyncio.StreamReader()
    commands.feed_data(b"snapshot 1\nsnapshot 2\n")
    commands.feed_eof()
    with (tmp_path / "words").open("w") as words:
        await worker_process._obey(commands, life, None, worker_process.Parent(words.fileno()))
    told = [json.loads(line) for line in Path(words.name).read_text().splitlines()]
    assert [each["number"] for each in told] == [1, 2]
    (version,) = snapshot_from_dict(told[0]["snapshot"]).versions
    assert version.experts.requests == 1
    assert version.experts.pairs[0]
    assert len(ranked) == 4
    assert threading.current_thread() not in {thread for _, thread in ranked}


async def test_statistics_of_models_do_not_sum_up_experts(life, ranked, ask):
    answer = await ask(life.servicer, "ModelStatistics")
    assert answer.model_stats[0].inference_count == 8
    assert not ranked
