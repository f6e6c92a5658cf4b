"""The fused operator is refused where it does not compute what the sorted form computes."""

from __future__ import annotations

import pytest

from exporter.experts import check
from exporter.experts.check import check_fused
from exporter.experts.forms import fused
from exporter.experts.node import moe_nodes, read_node
from runtime.errors import ExportError


@pytest.fixture(autouse=True)
def _forget():
    check._difference.cache_clear()
    yield
    check._difference.cache_clear()


def moe_of(layer):
    (node,) = moe_nodes(layer.model())
    return read_node(node)


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"experts": 1, "k": 1},
        {"k": 4},
        {"names": ("gate_up", "down"), "stacked": True, "activation": "silu"},
        {"names": ("up", "down"), "score": "sigmoid", "normalise": "sum", "scale": 2.5},
        {"names": ("up", "down"), "score": "softmax", "normalise": "none"},
    ],
)
def test_layers_of_many_kinds_agree_on_ties(layer_of, kind):
    check_fused(moe_of(layer_of(**kind)))


def test_an_operator_that_breaks_ties_by_itself_is_refused(layer_of, monkeypatch):
    # Raw scores in place of masked ones: the operator gives ties to the highest index.
    monkeypatch.setattr(fused, "masked_scores", lambda moe, *_: moe.choice)
    with pytest.raises(ExportError, match=r"layer 'blocks.0.moe'.*tied scores.*--moe-form sorted"):
        check_fused(moe_of(layer_of()))


def test_an_operator_with_another_activation_is_refused(layer_of, monkeypatch):
    monkeypatch.setitem(fused._ACTIVATIONS, "silu", "gelu")
    with pytest.raises(ExportError, match="off the sorted form"):
        check_fused(moe_of(layer_of(activation="silu")))


def test_a_gate_and_a_matrix_in_each_others_place_are_refused(layer_of, monkeypatch):
    right = fused._interleaved
    monkeypatch.setattr(fused, "_interleaved", lambda gate, up, build: right(up, gate, build))
    with pytest.raises(ExportError, match="off the sorted form"):
        check_fused(moe_of(layer_of(names=("gate", "up", "down"), activation="silu")))
