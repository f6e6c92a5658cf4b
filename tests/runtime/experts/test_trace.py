from __future__ import annotations

import resource

import numpy as np
import pytest

from runtime.errors import InvalidInput, NotFound, PlacementError
from runtime.experts.trace import (
    Trace,
    check_trace_file,
    read_trace,
    trace_from_answers,
    write_trace,
)
from runtime.experts.traces import drifting, gini_of, jumping, sigma_from_gini, still


def test_a_trace_comes_back_from_its_file(tmp_path):
    trace = Trace(np.arange(12).reshape(2, 2, 3), "small", np.ones((2, 3, 3)), 2)
    write_trace(tmp_path / "t.npz", trace)
    again = read_trace(tmp_path / "t.npz")
    assert np.array_equal(again.counts, trace.counts)
    assert np.array_equal(again.together, trace.together)
    assert (again.name, again.top_k) == ("small", 2)


def test_files_that_are_no_trace_are_refused(tmp_path):
    with pytest.raises(NotFound, match="there is no trace"):
        read_trace(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InvalidInput, match="it holds no plain arrays"):
        read_trace(tmp_path / "text.npz")
    np.savez(tmp_path / "floats.npz", counts=np.ones((2, 2, 2)))
    with pytest.raises(InvalidInput, match="counts is float64"):
        read_trace(tmp_path / "floats.npz")
    np.savez(tmp_path / "pickled.npz", counts=np.array([object()]))
    with pytest.raises(InvalidInput, match="it holds no plain arrays"):
        read_trace(tmp_path / "pickled.npz")
    for pairs in (-np.ones((1, 2, 2)), np.full((1, 2, 2), np.nan), np.full((1, 2, 2), "x")):
        np.savez(tmp_path / "pairs.npz", counts=np.ones((2, 1, 2), dtype=int), together=pairs)
        with pytest.raises(InvalidInput, match="together is no count of requests"):
            read_trace(tmp_path / "pairs.npz")
    np.save(tmp_path / "one.npz.npy", np.ones(2))
    (tmp_path / "one.npz.npy").rename(tmp_path / "one.npz")
    with pytest.raises(InvalidInput, match="holds one array; wanted"):
        read_trace(tmp_path / "one.npz")
    with pytest.raises(InvalidInput, match="another ending"):
        write_trace(tmp_path / "t.npy", still(0, 2, np.ones((1, 2))))


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path):
    file = tmp_path / "t.npz"
    write_trace(file, still(0, 2, np.ones((1, 2))))
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(InvalidInput) as refused:
            write_trace(file, still(1, 2, np.ones((4, 64))))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(refused.value) == f"the trace {file} cannot be written: File too large"
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_where_no_trace_can_be_written_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="there is no folder"):
        check_trace_file(tmp_path / "nowhere" / "t.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InvalidInput, match="is a folder"):
        check_trace_file(tmp_path / "folder.npz")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"counts": np.full((2, 1, 2), 2**62)}, "sum to more than"),
        ({"counts": np.full((2, 1, 2), 2**64 - 1, dtype=np.uint64)}, "sum to more than"),
        ({"together": np.full((1, 2, 2), 1e308)}, "together is no count of requests; wanted 0 to"),
        ({"name": np.array("n" * 5000)}, "has 5,000 characters"),
        ({"name": np.array("one\ntwo")}, "no line of text"),
        (
            {"top_k": np.int64(3)},
            "top_k is 3; a token is sent to 1 expert or more, and there are 2",
        ),
        ({"counts": np.zeros((2, 26, 10**6), dtype=np.uint8)}, "more than 50,000,000 counts"),
    ],
)
def test_values_that_no_trace_has_are_refused(arrays, said, tmp_path):
    file = tmp_path / "t.npz"
    np.savez_compressed(file, **{"counts": np.ones((2, 1, 2), dtype=int), **arrays})
    with pytest.raises(InvalidInput, match=said):
        read_trace(file)


def test_a_trace_of_few_experts_sends_a_token_to_no_more_of_them():
    assert still(0, 2, np.ones((1, 2))).top_k == 2
    assert drifting(0, 2, (1, 9), keeps=0.9).top_k == 8


def test_a_trace_of_one_window_is_refused():
    with pytest.raises(PlacementError, match="one window"):
        Trace(np.ones((1, 2, 3), dtype=np.int64))


def test_answers_are_cut_into_windows_and_companions_counted():
    first = np.array([[[2, 0, 1]]])  # [batch, layers, experts]
    second = np.array([[[0, 1, 1]], [[0, 2, 0]]])
    trace = trace_from_answers([first, second, first, second, first], 2, "served", 1)
    assert trace.counts.tolist() == [[[2, 3, 2]], [[2, 3, 2]]]
    assert trace.together[0].tolist() == [[2, 0, 2], [0, 2, 2], [2, 2, 4]]
    with pytest.raises(PlacementError, match="1 answers make 0 windows of 2"):
        trace_from_answers([first], 2, "short")


@pytest.mark.parametrize("gini", [0.105, 0.15, 0.24, 0.5])
def test_topics_have_the_inequality_that_was_asked_for(gini):
    trace = jumping(3, 4, (20, 256), gini=gini)
    assert gini_of(trace.counts) == pytest.approx(gini, rel=0.05)


def test_a_jump_changes_the_topic_and_a_stay_does_not():
    stays = jumping(1, 6, (2, 64), gini=0.3, stays=1.0, tokens=10**6).counts
    jumps = jumping(1, 6, (2, 64), gini=0.3, stays=0.0, tokens=10**6).counts
    assert np.abs(np.diff(stays, axis=0)).mean() < 0.2 * np.abs(np.diff(jumps, axis=0)).mean()


def test_drift_keeps_what_it_is_told_to():
    value = np.log(drifting(2, 3, (40, 256), keeps=0.9, tokens=10**7).counts + 0.5)
    value -= value.mean(2, keepdims=True)
    assert np.corrcoef(value[0].ravel(), value[1].ravel())[0, 1] == pytest.approx(0.9, abs=0.02)


def test_the_same_seed_draws_the_same_trace():
    one, two = (drifting(9, 3, (2, 8), keeps=0.9).counts for _ in range(2))
    assert np.array_equal(one, two)


def test_values_that_cannot_be_are_refused():
    with pytest.raises(PlacementError, match="Gini"):
        sigma_from_gini(1.0)
    with pytest.raises(PlacementError, match="keeps"):
        drifting(0, 2, (1, 2), keeps=1.5)
