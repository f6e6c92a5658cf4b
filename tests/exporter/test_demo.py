"""The demo compares what was served with PyTorch, and fails on a wrong label or number."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from exporter import demo as parts
from exporter.demo import ask, first_rows, serving
from exporter.real import digit_data
from exporter.source import SourceRequest, load_source
from exporter.truth import torch_float32
from runtime.errors import Unavailable

ROWS = 24


@pytest.fixture(scope="module", params=["lenet5", "moe"])
def source(request):
    return load_source(SourceRequest(request.param))


@pytest.fixture(scope="module")
def real(source, monkeymodule):
    monkeymodule.delenv("TWINPORT_DATA", raising=False)
    return first_rows(digit_data(source), ROWS)


@pytest.fixture(scope="module")
def monkeymodule():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@dataclass
class Served:
    """A client whose server is the module itself, with what a test does to its answers."""

    source: object
    change: object

    def __call__(self, url):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exit_info):
        return None

    def wait_ready(self, timeout_s):
        """It always is."""

    def infer(self, name, arrays, *, outputs):
        answers = torch_float32(self.source.module)(arrays)
        return self.change(dict(zip(outputs, answers.values(), strict=True)))


def asked(monkeypatch, source, real, change):
    monkeypatch.setattr(parts, "Client", Served(source, change))
    return ask("nowhere", source.name, source, real)


def test_the_modules_own_answers_pass(monkeypatch, source, real):
    answers = asked(monkeypatch, source, real, lambda served: served)
    assert answers.passed
    assert answers.agreeing == len(answers.served) == ROWS
    assert (answers.load is not None) == bool(source.experts)


def test_one_wrong_label_fails(monkeypatch, source, real):
    def wrong(served):
        logits = served["logits"].copy()
        logits[0] = -logits[0]
        return {**served, "logits": logits}

    answers = asked(monkeypatch, source, real, wrong)
    assert answers.agreeing < ROWS
    assert not answers.passed


def test_logits_out_of_tolerance_fail_though_every_label_agrees(monkeypatch, source, real):
    answers = asked(
        monkeypatch, source, real,
        lambda served: {**served, "logits": served["logits"] * np.float32(1.0001)},
    )  # fmt: skip
    assert answers.agreeing == ROWS
    assert not answers.passed


def test_a_wrong_load_of_the_experts_fails(monkeypatch, source, real):
    def wrong(served):
        return {k: v[..., ::-1] if k == "expert_load" else v for k, v in served.items()}

    assert asked(monkeypatch, source, real, wrong).passed == (not source.experts)


def test_requests_cover_every_row_once_alone_and_in_batches():
    parts_of = list(parts._requests(100))
    rows = [row for part in parts_of for row in range(part.start, part.stop)]
    assert rows == list(range(100))
    assert parts_of[0] == slice(0, 1)
    assert max(part.stop - part.start for part in parts_of) > 1


def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(Unavailable, match=r"did not start: .*holds no models"), serving(tmp_path):
        pass


def test_the_server_is_a_process_that_ends_with_the_block(repository, write_toy):
    write_toy()
    from runtime.client import Client

    with serving(repository) as address, Client(address) as client:
        client.wait_ready(30)
        assert client.live()
    with Client(address) as client, pytest.raises(Unavailable):
        client.live()


def test_the_real_demo_command_goes_the_whole_way(tmp_path, capsys, monkeypatch):
    from runtime.cli import main

    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "-o", "repository"]) == 0
    said = capsys.readouterr().out
    assert "lenet5 labels: 500 of 500 as PyTorch has them" in said
    assert "moe labels: 500 of 500 as PyTorch has them" in said
    assert "0.0% of the counts differ" in said
    assert "the repository is repository" in said
    assert (tmp_path / "repository" / "moe" / "1" / "model.onnx").is_file()


def test_the_demo_exits_with_one_where_the_server_disagrees(tmp_path, capsys, monkeypatch):
    from exporter.commands import demo
    from runtime.cli import main

    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    monkeypatch.setattr(demo, "MODELS", ("lenet5",))
    real_ask = parts.ask

    def disagreeing(*arguments):
        answers = real_ask(*arguments)
        return replace(answers, served=(answers.served + 1) % 10)

    monkeypatch.setattr(parts, "ask", disagreeing)
    assert main(["demo", "-o", str(tmp_path / "repository")]) == 1
    assert "agrees with PyTorch on 0 of 500 labels" in capsys.readouterr().err
