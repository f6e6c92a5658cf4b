from __future__ import annotations

import zipfile

import numpy as np
import pytest

from runtime.array_files import load_arrays
from runtime.errors import InvalidInput


def test_one_array_and_several_are_read(tmp_path):
    np.save(tmp_path / "one.npy", np.arange(3))
    np.savez_compressed(tmp_path / "two.npz", a=np.arange(3), b=np.ones((2, 2)))
    np.testing.assert_array_equal(load_arrays(tmp_path / "one.npy"), [0, 1, 2])
    assert sorted(load_arrays(tmp_path / "two.npz")) == ["a", "b"]


def header(shape):
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(128 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nothing of the kind",
        header(f"({1 << 50},)"),
        header("(3,)").replace(b"}", b" "),
    ],
    ids=["empty", "text", "larger than memory", "a dictionary without an end"],
)
def test_what_is_no_array_is_refused_in_one_line(tmp_path, content):
    file = tmp_path / "x.npy"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"x\.npy cannot be read as NumPy's \.npy") as refused:
        load_arrays(file)
    assert "\n" not in str(refused.value)


def test_objects_and_damaged_or_foreign_members_are_refused(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_arrays(tmp_path / "o.npy")
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("a.txt", "text")
    with pytest.raises(InvalidInput, match=r"holds a\.txt, which is no array"):
        load_arrays(tmp_path / "t.npz")
    np.savez_compressed(tmp_path / "d.npz", a=np.random.default_rng(0).random(50))
    damaged = bytearray((tmp_path / "d.npz").read_bytes())
    damaged[40:60] = bytes(20)
    (tmp_path / "d.npz").write_bytes(damaged)
    with pytest.raises(InvalidInput, match=r"d\.npz cannot be read as NumPy's \.npz"):
        load_arrays(tmp_path / "d.npz")
