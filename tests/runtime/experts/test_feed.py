from __future__ import annotations

import threading
from queue import SimpleQueue

import numpy as np
import pytest

from runtime.experts import feed as feeding
from runtime.experts.feed import LoadFeed
from runtime.experts.load import ExpertLoad, Horizon
from runtime.experts.store import LoadStore

ONE = np.ones((1, 1, 3), np.int32)


@pytest.fixture
def kept():
    return []


@pytest.fixture
def feed(kept):
    feed = LoadFeed(ExpertLoad(1, 3), 1.0, kept.append, "m/1")
    yield feed
    feed.close()


def test_what_was_offered_is_counted_whoever_counts(feed):
    for number in range(1000):
        feed.offer(ONE, [1])
        if not number % 100:
            assert feed.summary().requests == number + 1
    assert feed.summary().tokens == ((1000, 1000, 1000),)


def test_the_strongest_pairs_are_told_and_none_where_they_are_not_counted(kept):
    feed = LoadFeed(ExpertLoad(1, 20), 1.0, kept.append, "m/1")
    for _ in range(50):
        feed.offer(np.array([[[4, 4] + [0] * 18]]), [1])
    feed.offer(np.ones((1, 1, 20), np.int32), [1])
    (pairs,) = feed.summary().pairs
    assert pairs[0][:2] == (0, 1)
    assert len(pairs) <= 64
    many = LoadFeed(ExpertLoad(2, 3000, Horizon(2, 2)), 1.0, kept.append, "m/1")
    many.offer(np.ones((1, 2, 3000), np.int32), [1])
    assert many.summary().pairs is None


def test_rows_of_a_request_are_one_request(feed):
    feed.offer(np.ones((5, 1, 3), np.int32), [2, 3])
    summary = feed.summary()
    assert (summary.requests, summary.tokens) == (2, ((5, 5, 5),))


def test_the_thread_counts_by_itself(feed, monkeypatch):
    counted = threading.Event()
    add = ExpertLoad.add
    monkeypatch.setattr(ExpertLoad, "add", lambda *args: (add(*args), counted.set()))
    feed.offer(ONE, [1])
    assert counted.wait(10)


def test_what_was_counted_is_kept_from_time_to_time(monkeypatch):
    monkeypatch.setattr(feeding, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(feeding, "GATHER_SECONDS", 0.01)
    kept = SimpleQueue()
    feed = LoadFeed(ExpertLoad(1, 3), 1.0, kept.put, "m/1")
    for number in (1, 2):
        feed.offer(ONE, [1])
        assert kept.get(timeout=10)["requests"] == number
    feed.close()
    assert kept.empty()


def test_too_much_is_dropped_and_said(feed, monkeypatch):
    monkeypatch.setattr(feeding, "MOST_BYTES", 100)
    monkeypatch.setattr(feeding, "GATHER_SECONDS", 60)
    for _ in range(20):
        feed.offer(ONE, [1])
    summary = feed.summary()
    assert (summary.requests, summary.dropped) == (9, 11)


def test_a_load_of_another_form_is_not_counted_and_said(feed, caplog):
    feed.offer(np.ones((1, 1, 4), np.int32), [1])
    feed.offer(ONE, [2])
    summary = feed.summary()
    assert (summary.requests, summary.dropped) == (0, 2)
    assert "is not counted" in caplog.text


def test_the_end_keeps_what_was_counted_once(feed, kept):
    feed.offer(ONE, [1])
    feed.close()
    feed.close()
    assert [arrays["total"].tolist() for arrays in kept] == [[[1, 1, 1]]]


def test_a_share_of_the_calls_is_drawn():
    feed = LoadFeed(ExpertLoad(1, 3), 0.25, lambda arrays: None, "m/1")
    drawn = sum(feed.draws() for _ in range(4000))
    assert 800 < drawn < 1200


def test_the_next_run_goes_on_with_the_window_and_counts_tokens_anew(tmp_path):
    store = LoadStore(tmp_path, 1.0)
    feed = store.feed("m/1", "m-abc", 1, 3)
    feed.offer(ONE, [1])
    store.release(feed)
    again = store.feed("m/1", "m-abc", 1, 3)
    again.offer(ONE, [1])
    summary = again.summary()
    assert (summary.requests, summary.tokens) == (1, ((1, 1, 1),))
    assert (summary.window_requests, summary.window) == (2, ((2, 2, 2),))
    half = 0.5 ** (1 / Horizon.half_life)
    assert summary.decayed == (pytest.approx((1 + half,) * 3),)
    assert summary.remembered == 2
    store.release(again)
    assert [path.name for path in (tmp_path / "experts" / "0").iterdir()] == ["m-abc.npz"]


def test_a_version_loaded_anew_shares_its_load_until_the_last_leaves(tmp_path):
    store = LoadStore(tmp_path, 1.0)
    one, other = (store.feed("m/1", "m-abc", 1, 3) for _ in range(2))
    assert one is other
    one.offer(ONE, [1])
    store.release(one)
    assert not list(tmp_path.rglob("*.npz"))
    store.release(other)
    assert len(list(tmp_path.rglob("*.npz"))) == 1


def test_processes_that_share_a_folder_keep_files_of_their_own(tmp_path):
    stores = [LoadStore(tmp_path, 1.0) for _ in range(2)]  # a lock is the open file's
    for store in stores:
        feed = store.feed("m/1", "m-abc", 1, 3)
        feed.offer(ONE, [1])
        store.release(feed)
    found = sorted(path.parent.name for path in tmp_path.rglob("*.npz"))
    assert found == ["0", "1"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no file of NumPy"])
def test_a_broken_file_is_a_warning_and_counting_begins_anew(tmp_path, caplog, content):
    folder = tmp_path / "experts" / "0"
    folder.mkdir(parents=True)
    (folder / "m-abc.npz").write_bytes(content)
    store = LoadStore(tmp_path, 1.0)
    feed = store.feed("m/1", "m-abc", 1, 3)
    assert "counted anew" in caplog.text
    assert feed.summary().window_requests == 0
    store.release(feed)


def test_a_state_folder_that_cannot_be_is_a_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    store = LoadStore(tmp_path / "file", 1.0)
    feed = store.feed("m/1", "m-abc", 1, 3)
    feed.offer(ONE, [1])
    assert feed.summary().requests == 1
    store.release(feed)
    assert "is not kept" in caplog.text
