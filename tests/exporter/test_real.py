"""Real inputs: the digits of the project, MNIST where it is named, or the user's rows."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from exporter.real import digit_data, real_data
from exporter.source import SourceRequest, load_source
from runtime.errors import InvalidInput, NotFound


@pytest.fixture
def samples(source_of, tmp_path):
    def read(*inputs, **arrays):
        np.savez(tmp_path / "rows.npz", **arrays)
        source = source_of(nn.Identity(), *inputs)
        return real_data(source, samples=tmp_path / "rows.npz")

    return read


ROWS = np.zeros((5, 4), np.float32)


def test_rows_are_read_by_the_inputs_names(samples):
    data = samples("a:float32[n,4]", "b:int64[n]", a=ROWS, b=np.arange(5))
    assert (data.name, len(data), data.labels) == ("rows.npz", 5, None)
    np.testing.assert_array_equal(data.inputs["b"], np.arange(5))


def test_inputs_without_a_batch_axis_take_whole_calls(samples):
    many = samples("x:float32[2,4]", x=np.zeros((7, 2, 4), np.float32))
    assert many.inputs["x"].shape == (7, 2, 4)
    one = samples("x:float32[2,4]", x=np.zeros((2, 4), np.float32))
    assert one.inputs["x"].shape == (1, 2, 4)
    scalar = samples("x:float32[n,4]", "k:int64[]", x=ROWS[np.newaxis], k=np.array([3]))
    assert (scalar.inputs["k"].shape, len(scalar)) == ((1,), 1)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"y": ROWS}, "rows.npz holds y; the model takes x"),
        ({"x": ROWS, "y": ROWS}, "rows.npz holds x, y; the model takes x"),
        ({"x": ROWS.astype(np.float64)}, "data type float64; the model wants float32"),
        ({"x": ROWS[:, :3]}, r"shape \[5, 3\]; the model wants float32 \[n, 4\]"),
        ({"x": ROWS[:0]}, "holds no rows of 'x'"),
        (
            {"x": np.array([{}], dtype=object)},
            "rows.npz cannot be read as NumPy's .npz: it holds no plain arrays",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(samples, arrays, text):
    with pytest.raises(InvalidInput, match=text):
        samples("x:float32[n,4]", **arrays)


def test_files_that_are_no_archives_are_refused(source_of, tmp_path):
    source = source_of(nn.Identity(), "x:float32[n,4]")
    with pytest.raises(NotFound, match=r"gone.npz do not exist"):
        real_data(source, samples=tmp_path / "gone.npz")
    for content in (b"", b"no archive", b"PK\x03\x04 no archive"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InvalidInput, match=r"bad.npz cannot be read as NumPy's .npz"):
            real_data(source, samples=tmp_path / "bad.npz")


def test_a_single_array_is_no_archive(source_of, tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    with pytest.raises(InvalidInput, match=r"rows.npy holds nothing; the model takes x"):
        real_data(source_of(nn.Identity(), "x:float32[n,4]"), samples=tmp_path / "rows.npy")


def test_the_users_own_module_has_no_data_of_itself(source_of):
    assert real_data(source_of(nn.Identity(), "x:float32[n,4]")) is None


def test_the_bundled_digits_need_neither_folder_nor_network(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    data = digit_data(load_source(SourceRequest("lenet5")))
    assert data.name == "scikit-learn digits"
    assert data.inputs["image"].shape == (1797, 1, 32, 32)
    assert data.inputs["image"].dtype == np.float32
    assert data.label_output == "logits"
    assert set(data.labels.tolist()) == set(range(10))


@pytest.mark.parametrize("named", ["--data", "TWINPORT_DATA"])
def test_a_folder_that_was_named_and_has_no_mnist_is_an_error(monkeypatch, tmp_path, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TWINPORT_DATA", str(tmp_path))
    with pytest.raises(NotFound, match=f"^{named} names .* has no MNIST/raw files"):
        digit_data(load_source(SourceRequest("lenet5")), tmp_path if named == "--data" else None)


@pytest.mark.parametrize(("rows", "calls"), [(1, 1797), (5, 360), (2000, 1)])
def test_digits_come_in_calls_of_a_fixed_batch_the_last_one_filled_up(
    monkeypatch, tmp_path, rows, calls
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    free = digit_data(load_source(SourceRequest("lenet5"))).inputs["image"]
    fixed = digit_data(load_source(SourceRequest("lenet5", ranges={"batch": (rows, rows)})))
    assert fixed.inputs["image"].shape == (calls, rows, 1, 32, 32)
    assert len(fixed.labels) == 1797
    flat = fixed.inputs["image"].reshape(-1, 1, 32, 32)
    np.testing.assert_array_equal(flat[:1797], free)
    np.testing.assert_array_equal(flat[1797:], free[: len(flat) - 1797])
