"""Plots of judgements and loads."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from exporter.report import plots
from exporter.report.balance import KindLoad, LayerBalance
from exporter.report.plots import error_plots, load_plot
from runtime.proof_records import Judgement

GOOD = Judgement(
    "y", "real", False, 64, 640, 3e-7, 7e-7, 0.4, 4.0, 2e-6, 2.5e-6, 0.8, 8.0, 2e-7, "passed"
)
EXTREME = replace(GOOD, kind="zeros", extreme=True, rms_limit=None, max_limit=None,
                  relative_limit=1e-4)  # fmt: skip
INTEGER = replace(GOOD, output="load", rms_error=0.0, rms_scale=None, rms_factor=None,
                  rms_limit=0.0, max_error=None, max_scale=None, max_factor=None, max_limit=None,
                  relative_rms=None)  # fmt: skip


def test_each_error_is_drawn_beside_its_limit():
    rms, largest, relative = error_plots([GOOD, EXTREME], "p")
    assert "real 0.4 (at most 4); zeros 0.4 (not judged)" in rms
    assert "real 0.8 (at most 8); zeros 0.8 (not judged)" in largest
    assert "real 2e-07 (not judged); zeros 2e-07 (at most 0.0001)" in relative
    assert "logarithmic" not in rms
    assert "of the truth's size, logarithmic" in relative


def test_an_error_above_its_limit_says_so():
    (rms, *_) = error_plots([replace(GOOD, rms_factor=9.5, verdict="failed")], "p")
    assert "9.5, above the limit" in rms
    assert "url(#p-rms-" in rms, "it is hatched, too"
    assert "above the limit" not in "".join(error_plots([GOOD], "p"))


@pytest.mark.parametrize("factor", [None, math.nan, math.inf])
def test_what_is_not_a_number_is_drawn_as_a_failure(factor):
    (rms, *_) = error_plots([replace(GOOD, rms_factor=factor, verdict="failed")], "p")
    assert "not finite, above the limit" in rms


def test_errors_of_zero_can_be_drawn():
    zero = replace(GOOD, rms_factor=0.0, max_factor=0.0, relative_rms=0.0)
    assert len(error_plots([zero, replace(zero, kind="zeros", relative_limit=1e-4)], "p")) == 3


def test_integers_are_left_to_the_table():
    assert error_plots([INTEGER], "p") == ()
    assert "load" not in "".join(error_plots([GOOD, INTEGER], "p"))


def test_names_are_texts_and_no_formulas():
    name = "$x_1$<script>\x00"
    (rms, *_) = error_plots([replace(GOOD, output=name), GOOD], "p")
    assert re.search(r">\s*\$x_1\$&lt;script&gt;�, real\s*</text>", rms)


def test_a_drawing_of_very_many_outputs_stays_readable(monkeypatch):
    monkeypatch.setattr(plots, "MOST_BARS", 3)
    (rms, *_) = error_plots([replace(GOOD, output=f"out{i}") for i in range(5)], "p")
    assert "out2, real" in rms
    assert "out3, real" not in rms


def load(layers: int, experts: int) -> KindLoad:
    tokens = np.arange(layers * experts).reshape(layers, experts)
    names = tuple(LayerBalance(f"blocks.{i}", 1, 1.0, 0.0, 0) for i in range(layers))
    return KindLoad("real", 4, tokens, "truth", names)


def test_few_experts_have_their_shares_in_the_heat_map():
    drawing = load_plot(load(2, 4), "h")
    assert "blocks.1" in drawing
    assert re.search(r">\s*50\.0\s*<", drawing), "expert 3 of layer 0 got 3 of 6 tokens"


def test_many_experts_and_layers_without_tokens_are_drawn_too():
    assert "data:image/png" in load_plot(load(3, 64), "h")
    load_plot(replace(load(2, 4), tokens=np.zeros((2, 4), dtype=np.int64)), "h")


def test_drawings_are_the_same_again_and_share_no_id():
    drawings = [*error_plots([GOOD, EXTREME], "a"), *error_plots([GOOD, EXTREME], "b"),
                load_plot(load(2, 4), "c")]  # fmt: skip
    assert list(error_plots([GOOD, EXTREME], "a")) == drawings[:3]
    ids = re.findall(r'\bid="([^"]*)"', "".join(drawings))
    assert len(ids) == len(set(ids))
