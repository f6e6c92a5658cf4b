"""What a group of workers keeps of those that have ended, and says of those that run."""

from __future__ import annotations

import pytest

from runtime.observe.snapshot import Snapshot
from runtime.settings import ServerSettings
from runtime.transports import workers


class Ended:
    """A worker that answered some calls and ended at once."""

    served_s = 1.0
    failed = None
    snapshot = Snapshot(failed_calls={"ModelInfer NOT_FOUND": 1})

    def tell(self, line):
        pass

    async def run(self):
        return 1


@pytest.fixture
def group(tmp_path, monkeypatch):
    async def start(settings, port, heard):
        return Ended()

    monkeypatch.setattr(workers, "start_worker", start)
    return workers._Group(ServerSettings(tmp_path, workers=2), 1, print)


async def test_of_workers_that_ended_no_more_is_kept_than_of_one(group, monkeypatch):
    sums = []

    def summed(running, ended):
        sums.append((len(running), len(ended)))
        return real(running, ended)

    real = workers.summed
    monkeypatch.setattr(workers, "summed", summed)
    for _ in range(100):
        await group._run(0)
    assert (await group.snapshot()).failed_calls == {"ModelInfer NOT_FOUND": 100}
    assert sums == [(0, 1)]


def test_a_worker_says_at_the_start_only_what_the_first_does_not(group, caplog, capsys):
    group._say_of_another(1, "not ready: a/1: no proof")
    group._say_of_another(1, "not ready: b/1: no memory")
    group._say_of_another(1, "0 of 2 models ready")
    for line in ("not ready: a/1: no proof", "ready: b/1", "1 of 2 models ready"):
        group._say(line)
    assert not caplog.records
    group._up = True
    group._warn()
    assert [record.getMessage() for record in caplog.records] == [
        "worker 1: not ready: b/1: no memory"
    ]
    group._say_of_another(0, "not ready: b/1: no memory")
    assert caplog.records[1].getMessage() == "worker 0: not ready: b/1: no memory"
    assert capsys.readouterr().out == "not ready: a/1: no proof\nready: b/1\n"
