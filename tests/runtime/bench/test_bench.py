"""The load generator against a server whose answers the test writes."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import time

import grpc
import numpy as np
import pytest

import protos
from runtime.bench.load import Plan
from runtime.bench.plot import latency_figure, write_plot
from runtime.bench.result import Level
from runtime.client_wire import Connection
from runtime.errors import InvalidInput


def metadata(request, context):
    tensor = protos.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 4])
    return protos.ModelMetadataResponse(name=request.name, inputs=[tensor], outputs=[tensor])


@pytest.fixture
def bench(serve_with, twinport):
    """Run the command against a server that answers ``answer``."""

    def bench(answer, *options):
        url = serve_with(ModelMetadata=metadata, ModelInfer=answer)
        quick = ("--warm-up", 0, "--concurrency", "1,3")
        return twinport("bench", "m", "--url", url, *quick, *options)

    return bench


@pytest.fixture
def seen():
    return []


@pytest.fixture
def answer(seen):
    def answer(request, context):
        seen.append(request)
        return protos.ModelInferResponse(model_name=request.model_name)

    return answer


def test_so_many_requests_as_were_asked_for_are_measured(bench, answer, seen):
    ran = bench(answer, "--requests", 20, "--rows", 2, "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert (record["model"], record["rows"]) == ("m", 2)
    assert [level["in_flight"] for level in record["levels"]] == [1, 3]
    for level in record["levels"]:
        assert level["requests"] == 20
        latency = level["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
        assert level["rows_per_second"] == pytest.approx(2 * level["requests_per_second"])
        assert level["errors"] == {}
    # One of each warms each of the requests in flight up.
    assert len(seen) == 40 + 1 + 3
    assert list(seen[0].inputs[0].shape) == [2, 4]


@pytest.mark.parametrize("options", [["--token", "secret"], []])
def test_a_token_goes_with_every_request(options, bench, seen, monkeypatch):
    monkeypatch.setenv("TWINPORT_TOKEN", "" if options else "secret")

    def answer(request, context):
        seen.append(dict(context.invocation_metadata()).get("authorization"))
        return protos.ModelInferResponse(model_name=request.model_name)

    ran = bench(answer, "--requests", 2, *options)
    assert ran.code == 0, ran.err
    assert set(seen) == {"Bearer secret"}


def test_a_level_ends_with_its_time(bench, answer):
    ran = bench(answer, "--seconds", 0.2, "--json")
    levels = json.loads(ran.out)["levels"]
    assert all(0.2 <= level["seconds"] < 60 and level["requests"] for level in levels)


def test_errors_are_counted_by_code_and_not_as_answers(bench, answer):
    turn = itertools.count()

    def sometimes(request, context):
        if next(turn) % 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return answer(request, context)

    ran = bench(sometimes, "--requests", 10, "--json")
    for level in json.loads(ran.out)["levels"]:
        assert level["requests"] + level["errors"]["RESOURCE_EXHAUSTED"] == 10


def test_a_server_that_answers_nothing_is_its_first_error(bench):
    def refuse(request, context):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input 'x' is wrong")

    ran = bench(refuse, "--requests", 10)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "twinport: input 'x' is wrong\n"


def away(answer, turns):
    """Answer requests but those of some turns, counted from 1, at which nobody is there."""
    turn = itertools.count(1)

    def sometimes(request, context):
        if next(turn) in turns:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")
        return answer(request, context)

    return sometimes


def test_a_server_that_is_gone_at_the_end_is_an_error_and_its_level_is_shown(
    bench, answer, tmp_path
):
    # The first level sends 1 and 20, the second one 3 and 20.
    gone = away(answer, range(35, 1000))
    ran = bench(gone, "--requests", 20, "--json", "--plot", tmp_path / "plot.svg")
    assert ran.code == 1
    *_, last = ran.err.splitlines()
    assert last.startswith("twinport: the server was gone at the end of the level with 3 in flight")
    assert last.endswith(": the server stops")
    record = json.loads(ran.out)
    assert not record["complete"]
    assert [level["in_flight"] for level in record["levels"]] == [1, 3]
    assert record["levels"][1]["requests"] == 10
    assert record["levels"][1]["errors"] == {"UNAVAILABLE": 10}
    assert (tmp_path / "plot.svg").exists()


@pytest.mark.parametrize("failed", [range(5, 15), range(21, 22), range(43, 45)])
def test_a_server_that_was_away_and_is_back_is_none(failed, bench, answer):
    ran = bench(away(answer, failed), "--requests", 20, "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    assert record["complete"]
    counted = [level["errors"].get("UNAVAILABLE", 0) for level in record["levels"]]
    assert sum(counted) == len(failed)


@pytest.fixture
def fails_later(answer):
    """Answer the first level (20 requests and one to warm up) and do ``then`` after it."""

    def fails_later(then):
        turn = itertools.count()

        def sometimes(request, context):
            if (number := next(turn)) > 20:
                then(context, number == 21)
            return answer(request, context)

        return sometimes

    return fails_later


def refuse(context, _first):
    context.abort(grpc.StatusCode.NOT_FOUND, "it has gone")


def interrupt(context, first):
    if first:
        os.kill(os.getpid(), signal.SIGINT)
    while context.is_active():
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("then", "code", "said"),
    [(refuse, 1, "twinport: it has gone\n"), (interrupt, 130, "twinport: interrupted\n")],
)
def test_levels_that_were_finished_are_shown_whatever_comes_later(
    then, code, said, bench, fails_later, tmp_path
):
    plot = tmp_path / "plot.svg"
    ran = bench(fails_later(then), "--requests", 20, "--json", "--plot", plot)
    assert ran.code == code
    assert ran.err.endswith(said)
    record = json.loads(ran.out)
    assert not record["complete"]
    assert [(level["in_flight"], level["requests"]) for level in record["levels"]] == [(1, 20)]
    assert plot.read_bytes().rstrip().endswith(b"</svg>")
    ran = bench(fails_later(then), "--requests", 20)
    assert ran.code == code
    assert [line.split()[:1] for line in ran.out.splitlines()[3:5]] == [["1"], []]


def test_the_table_has_a_row_for_each_level_and_progress_goes_to_stderr(bench, answer):
    ran = bench(answer, "--requests", 5)
    assert "p99" in ran.out
    assert [line.split()[0] for line in ran.out.splitlines()[3:5]] == ["1", "3"]
    assert ran.err == "1 in flight: 5 requests\n3 in flight: 5 requests\n"


def test_the_plot_is_a_picture(bench, answer, tmp_path):
    ran = bench(answer, "--requests", 5, "--plot", tmp_path / "plot.png")
    assert ran.code == 0, ran.err
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "text"),
    [("p.txt", "another ending"), ("no/p.png", "no folder"), ("dir.png", "is a folder")],
)
def test_a_plot_that_cannot_be_written_is_said_before_anything_is_sent(
    name, text, bench, answer, seen, tmp_path
):
    (tmp_path / "dir.png").mkdir()
    ran = bench(answer, "--plot", tmp_path / name)
    assert ran.code == 1
    assert text in ran.err
    assert not seen


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--concurrency", "1,x", 2),
        ("--concurrency", "0", 1),
        ("--concurrency", "99999", 1),
        ("--seconds", "0", 1),
        ("--seconds", "nan", 1),
        ("--requests", "0", 1),
        ("--connections", "2", 1),
        ("--axis", "x=0", 2),
        ("--timeout", "nan", 1),
        ("--rows", "0", 2),
        ("--rows", "200000000000", 1),
    ],
)
def test_what_cannot_be_measured_is_refused(option, value, code, bench, answer, seen):
    ran = bench(answer, option, value)
    assert ran.code == code
    assert "Traceback" not in ran.err
    assert not seen


def test_the_plan_is_looked_at_before_anybody_is_called(twinport):
    ran = twinport("bench", "m", "--url", "127.0.0.1:1", "--requests", 0)
    assert (ran.code, ran.err) == (1, "twinport: requests is 0; wanted 1 to 10000000\n")


def test_the_timeout_is_that_of_the_first_question_too(serve_with, twinport):
    def silent(request, context):
        while context.is_active():
            time.sleep(0.01)

    url = serve_with(ModelMetadata=silent)
    begun = time.monotonic()
    ran = twinport("bench", "m", "--url", url, "--timeout", 0.2)
    assert ran.code == 1
    assert "gave no answer in time" in ran.err
    assert time.monotonic() - begun < 30


def test_a_plot_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    plot = tmp_path / "plot.png"
    plot.write_bytes(b"old")

    def full(self, data):
        (self.open("wb")).close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        write_plot(plot, latency_figure([Level(1, 1, 1.0, (0.1, 0.2))], "m"))
    assert [item.name for item in tmp_path.iterdir()] == ["plot.png"]
    assert plot.read_bytes() == b"old"


def test_the_picture_shows_every_level_with_answers():
    levels = [
        Level(1, 1, 2.0, tuple(np.linspace(1e-3, 2e-3, 50))),
        Level(8, 1, 2.0, tuple(np.linspace(2e-3, 9e-3, 200))),
        Level(32, 1, 2.0, (), {"UNAVAILABLE": 5}),
    ]
    percentiles, distribution = latency_figure(levels, "m").axes
    lines = {line.get_label(): line.get_ydata() for line in percentiles.lines}
    assert list(lines) == ["p50", "p90", "p95", "p99"]
    np.testing.assert_allclose(lines["p50"], [1.5, 5.5])
    legend = [text.get_text() for text in distribution.get_legend().get_texts()]
    assert legend == ["1 in flight", "8 in flight"]


def test_percentiles_are_those_of_numpy_in_milliseconds():
    level = Level(1, 4, 2.0, (0.001, 0.002, 0.003, 0.004))
    assert level.percentile_ms(50) == pytest.approx(2.5)
    assert level.requests_per_second == 2
    assert Level(1, 1, 1.0, ()).percentile_ms(50) is None


def test_a_plan_has_a_level():
    with pytest.raises(InvalidInput):
        Plan(Connection("127.0.0.1:1"), ())
