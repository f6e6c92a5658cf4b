from __future__ import annotations

import math
from pathlib import Path

import pytest

from exporter.report import words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("/home/me/repo/net/1/model.onnx cannot be read", "model.onnx cannot be read"),
        ("no '/usr/lib/libcuda.so.1' here", "no 'libcuda.so.1' here"),
        ("(/tmp/x/y.onnx: gone)", "(y.onnx: gone)"),
        ("RMS and/or max, 3/4 of lenet5/1", "RMS and/or max, 3/4 of lenet5/1"),
        ("no '/home/a b/net/1/x.onnx', /home/a b/net/c.txt", "no 'x.onnx', c.txt"),
        ("see https://far.example/a/b", "see https://far.example/a/b"),
    ],
)
def test_files_keep_their_names_and_lose_their_places(text, said):
    assert words.without_folders(text, Path("/home/a b/net/1")) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "\N{EN DASH}"), (math.nan, "NaN"), (math.inf, "infinite"),
     (-math.inf, "\N{MINUS SIGN}infinite"), (0.0, "0"), (0.38885, "0.389"),
     (1.9e-7, "1.9e-07"), (12345.0, "12,345"), (1.2345e6, "1.23e+06")],
)  # fmt: skip
def test_every_number_is_said(value, said):
    assert words.number(value) == said


def test_labels_of_drawings_are_short_and_printable():
    assert words.printable("a\x00b\n") == "a�b�"
    assert words.printable("x" * 40) == "x" * 27 + "…"


def test_sizes_and_shapes():
    assert words.file_size(999) == "999 bytes"
    assert words.file_size(252_615) == "252,615 bytes (247 KiB)"
    assert words.shape((-1, 1, "height")) == "[?, 1, height]"
