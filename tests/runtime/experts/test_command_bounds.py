from __future__ import annotations

import json

import numpy as np
import pytest

HUGE = "9" * 400


@pytest.fixture
def trace(tmp_path):
    file = tmp_path / "t.npz"
    counts = np.random.default_rng(0).integers(0, 100, (4, 2, 8))
    np.savez(file, counts=counts)
    return file


@pytest.mark.parametrize(
    "options",
    [
        ["--layers", 10**6, "--experts", 10**6],
        ["--layers", 10**13, "--experts", 10**16],
        ["--windows", 10**9],
        ["--keeps", "nan"],
        ["--seed", HUGE],
    ],
)
def test_a_trace_too_large_is_refused_before_it_is_drawn(options, twinport, tmp_path):
    ran = twinport("experts", "trace", tmp_path / "t.npz", *options)
    assert (ran.code, ran.out) == (2, "")
    assert "Traceback" not in ran.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--memory", 10**21], "--memory"),
        (["--batch", HUGE], "--batch"),
        (["--moves", HUGE], "--moves"),
        (["--devices", 999999999999999999], "--devices"),
        (["--devices", 100000000], "--devices"),
        (["--nodes", 10**20], "--nodes"),
        (["--speed", "1e308,1e308,1,1", "--policy", "ours"], "1e+308 is no speed"),
        (["--speed", "1,1,1,1e308"], "1e+308 is no speed"),
        (["--speed", "1,1,1,nan"], "nan is no speed"),
        (["--token-us", "1e308"], "--token-us"),
        (["--off-home", -1], "--off-home"),
        (["--off-home", "1e308"], "--off-home"),
        (["--touch", "nan"], "--touch"),
        (["--replica-price", -1], "--replica-price"),
        (["--replica-mb", -1], "--replica-mb"),
        (["--slots", 100000000, "--policy", "eplb"],
         "8 experts on 4 devices use 32 at most"),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_wrong_usage(options, said, twinport, trace):
    ran = twinport("experts", "replay", trace, "--devices", 4, *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_tables_and_replicas_beyond_memory_and_time_are_refused(twinport, tmp_path):
    file = tmp_path / "wide.npz"
    np.savez_compressed(file, counts=np.ones((2, 50, 256), dtype=int))

    def said(*options):
        ran = twinport("experts", "replay", file, "--history", 1, *options)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
        return ran.err

    assert "with 50 layers of 256 experts give 3906 at most" in said("--devices", 4000)
    assert "give --slots 20000 at most" in said("--devices", 100, "--slots", 25000)


def test_the_largest_numbers_give_finite_scores_without_a_warning(twinport, tmp_path, recwarn):
    file = tmp_path / "large.npz"
    counts = np.random.default_rng(0).integers(2**46, 2**47, (4, 2, 8))
    np.savez(file, counts=counts, together=np.full((2, 8, 8), 2.0**53))
    ran = twinport(
        "experts", "replay", file, "--devices", 4, "--nodes", 2, "--speed", "1e6,1,1,1",
        "--token-us", "1e9", "--off-home", "1e6", "--touch", "1e6", "--replica-price", "1e6",
        "--batch", 10**9, "--memory", 10**9, "--policy", "ours", "--policy", "none", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    for record in json.loads(ran.out)["policies"]:
        assert all(np.isfinite(value) for value in record.values() if isinstance(value, float))
    assert [str(each.message) for each in recwarn] == []


def test_more_devices_than_experts_use_have_slots_by_default(twinport, tmp_path):
    file = tmp_path / "one.npz"
    np.savez(file, counts=np.ones((4, 2, 1), dtype=int))
    ran = twinport("experts", "replay", file, "--devices", 8)
    assert ran.code == 0, ran.err


def test_links_that_are_too_slow_to_reckon_are_refused_without_a_warning(
    twinport, trace, tmp_path, recwarn
):
    links = tmp_path / "links.json"
    links.write_text(json.dumps({"link_tokens": [[1e-300] * 4], "link_seconds": [[1e10] * 4]}))
    ran = twinport("experts", "replay", trace, "--devices", 4, "--links", links)
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert "is without end" in ran.err
    assert list(recwarn) == []
