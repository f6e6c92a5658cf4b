from __future__ import annotations

import json

import numpy as np
import pytest

from runtime.errors import InvalidInput, NotFound
from runtime.experts.link_files import read_links
from runtime.experts.links import LinkCosts

US = [[1.0, 3.0], [5.0, 3.0]]


def saved(path, value):
    if path.suffix == ".json":
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    elif path.suffix == ".npz":
        np.savez(path, **value)
    else:
        np.save(path, np.array(value))
    return path


@pytest.mark.parametrize(
    ("name", "value", "mean"),
    [
        ("l.json", US, [3, 3]),
        ("l.json", {"us_per_token": US, "weights": [3, 1]}, [2, 3]),
        ("l.npy", US, [3, 3]),
        ("l.npz", {"us_per_token": US, "weights": [3, 1]}, [2, 3]),
        ("l.json", {"link_tokens": [[2, 1]], "link_seconds": [[2e-6, 3e-6]]}, [1, 3]),
    ],
)
def test_every_kind_of_file_is_read(tmp_path, name, value, mean):
    links = read_links(saved(tmp_path / name, value), 2.0)
    np.testing.assert_allclose(links.us_to(2), mean)
    assert links.token_us == 2.0


def test_what_link_costs_keep_is_read(tmp_path):
    costs = LinkCosts()
    costs.add(np.array([[6.0, 3.0], [1.0, 2.0]]), np.array([[6e-6, 9e-6], [5e-6, 6e-6]]))
    np.savez(tmp_path / "l.npz", **costs.to_arrays())
    np.testing.assert_allclose(read_links(tmp_path / "l.npz").us_to(2), [2, 3])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("l.csv", None, "another ending"),
        ("l.json", "[[1, 2], [3]]", "no numbers in rows of one length"),
        ("l.json", '[["1", "2"]]', "no numbers"),
        ("l.json", "[[1, 2", "cannot be read as .json"),
        ("l.json", "[[1, NaN]]", "source 0 to device 1 is not a number"),
        ("l.json", "[[1, Infinity]]", "cannot be reached"),
        ("l.json", "3", r"shape is \[\]"),
        ("l.json", {"weights": [1]}, "holds weights; wanted us_per_token"),
        ("l.npz", {}, "holds nothing; wanted us_per_token"),
        ("l.npy", [[True]], "no numbers"),
        ("l.npz", {"us_per_token": US, "link_tokens": US}, "wanted us_per_token"),
        ("l.npz", {"link_tokens": [[1.0]], "link_seconds": [[-1.0]]}, "are no costs"),
    ],
)
def test_what_is_no_file_of_links_is_refused(tmp_path, name, value, said):
    path = tmp_path / name
    if value is not None:
        saved(path, value)
    with pytest.raises(InvalidInput, match=said):
        read_links(path)


def test_a_file_that_is_not_there_or_broken_is_refused(tmp_path):
    with pytest.raises(NotFound, match="there are no links"):
        read_links(tmp_path / "l.json")
    (tmp_path / "l.npy").write_bytes(b"\x93NUMPY nothing more")
    with pytest.raises(InvalidInput, match=r"cannot be read as NumPy's \.npy"):
        read_links(tmp_path / "l.npy")


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".json"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, suffix):
    """Bytes are changed anywhere: in archives, in headers, in compressed streams, in numbers."""
    rng = np.random.default_rng(0)
    path = tmp_path / f"l{suffix}"
    us = rng.random((3, 40))
    if suffix == ".npz":
        np.savez_compressed(path, us_per_token=us, weights=np.ones(3))
    else:
        saved(path, us.tolist())
    whole = path.read_bytes()
    refused = []
    for _ in range(300):
        damaged = bytearray(whole)
        for at in rng.integers(0, min(len(whole), rng.choice([150, len(whole)])), 3):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_links(path)
        except InvalidInput as error:
            refused.append(str(error))
    assert len(refused) > 30
    assert not [text for text in refused if "\n" in text]
