"""The autograd picture marks what receives no gradient, and only that."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from exporter.look.gradients import COLOURS, FROZEN, INPUT, UNREACHED, draw_gradients, leaves_of
from exporter.source import SourceRequest, load_source
from runtime.errors import BackendUnavailable, ExportError, InvalidInput

needs_dot = pytest.mark.needs_tool("dot", "apt-get install graphviz")


class Partly(nn.Module):
    """One layer that trains, one that is frozen, one that nothing uses; three outputs."""

    def __init__(self):
        super().__init__()
        self.body, self.frozen, self.unused = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(9, 9)
        self.head = nn.Linear(6, 2)
        self.frozen.requires_grad_(False)

    def forward(self, x):
        features = self.body(x).relu() + self.frozen(x).tanh()
        scores = self.head(features)
        return {"scores": scores, "features": features, "best": scores.argmax(-1)}


@pytest.fixture
def partly(source_of):
    return source_of(Partly(), "x:float32[n,4]")


def nodes_of(svg):
    """The texts of each node, and the colours that it is drawn in."""
    groups = re.findall(r'<g id="[^"]*" class="node">(.*?)</g>', svg, re.DOTALL)
    return {
        " ".join(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", group)).split()): group
        for group in groups
    }


@needs_dot
def test_what_gets_no_gradient_is_marked_by_colour_and_by_word(partly, tmp_path):
    marks = draw_gradients(partly, tmp_path / "net.svg")
    assert marks == {
        "frozen.weight": FROZEN, "frozen.bias": FROZEN, "unused.weight": UNREACHED,
        "unused.bias": UNREACHED, "input x": INPUT,
    }  # fmt: skip
    nodes = nodes_of((tmp_path / "net.svg").read_text())
    for text, mark in (
        ("frozen.weight (6, 4) frozen", FROZEN),
        ("unused.weight (9, 9) not reached", UNREACHED),
        ("unused.bias (9) not reached", UNREACHED),
        ("input x (2, 4) input", INPUT),
        ("requires_grad is False: no gradient", FROZEN),
        ("parameter that no output depends on: no gradient", UNREACHED),
    ):
        assert f'fill="{COLOURS[mark]}"' in nodes[text]
    for text in ("body.weight (6, 4)", "head.bias (2)", "parameter that receives a gradient"):
        assert 'fill="lightblue"' in nodes[text]
    for text in ("output scores (2, 2)", "output features (2, 6)", "output best (2)"):
        assert 'fill="#caff70"' in nodes[text], "darkolivegreen1"
    assert "stroke-dasharray" in nodes["TanhBackward0"], "a gradient passes to nothing there"
    assert "stroke-dasharray" not in nodes["ReluBackward0"]
    assert [item.name for item in tmp_path.iterdir()] == ["net.svg"]


def test_the_marks_agree_with_what_backward_fills_in(partly):
    """The one authority on who gets a gradient is a backward pass."""
    marks = leaves_of(partly).marks
    outputs = partly.module(torch.ones(2, 4))
    (outputs["scores"].sum() + outputs["features"].sum()).backward()
    without = {name for name, p in partly.module.named_parameters() if p.grad is None}
    assert {name for name in marks if not name.startswith("input ")} == without
    assert [p.requires_grad for p in partly.module.frozen.parameters()] == [False, False]


def test_a_module_that_works_in_place_is_drawn_with_what_it_allows(source_of):
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = nn.Parameter(torch.zeros(3), requires_grad=False)
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            x.mul_(2)
            self.calls.add_(1)
            return self.layer(x) + self.calls

    leaves = leaves_of(source_of(InPlace(), "x:float32[n,3]"))
    assert leaves.marks == {"calls": FROZEN, "input x": INPUT}


def test_a_shared_parameter_is_one_leaf_with_both_names(source_of):
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    leaves = leaves_of(source_of(nn.Sequential(first, second), "input:float32[n,3]"))
    assert "0.weight = 1.weight" in leaves.tensors
    assert leaves.marks == {"input input": INPUT}


def test_the_outputs_of_a_built_in_model_have_their_names():
    leaves = leaves_of(load_source(SourceRequest("lenet5")))
    assert list(leaves.outputs) == ["logits"]
    assert leaves.marks == {"input image": INPUT}


def test_whole_numbers_stand_beside_the_graph(source_of):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 3)

        def forward(self, tokens):
            return self.table(tokens)

    leaves = leaves_of(source_of(Tokens(), "tokens:int64[n]"))
    assert leaves.marks == {"input tokens": INPUT}
    assert id(leaves.tensors["input tokens"]) not in leaves.reached


@needs_dot
def test_outputs_without_any_graph_are_refused(source_of, tmp_path):
    class Whole(nn.Module):
        def forward(self, x):
            return x.argmax(-1)

    with pytest.raises(InvalidInput, match="the output has no autograd graph"):
        draw_gradients(source_of(Whole(), "x:float32[n,4]"), tmp_path / "net.svg")
    assert list(tmp_path.iterdir()) == []


@needs_dot
@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("net.bmp", InvalidInput, "another suffix; wanted a picture's, .png or .svg or .pdf"),
        ("gone/net.svg", ExportError, "gone' is no folder"),
    ],
)
def test_a_place_that_cannot_be_is_refused(partly, tmp_path, name, error, text):
    with pytest.raises(error, match=text) as caught:
        draw_gradients(partly, tmp_path / name)
    assert "\n" not in str(caught.value)


@needs_dot
def test_a_module_that_fails_on_its_example_is_one_line(source_of, tmp_path):
    with pytest.raises(ExportError, match=r"the module fails on an example: .*; check --input"):
        draw_gradients(source_of(nn.Linear(4, 2), "input:float32[n,5]"), tmp_path / "net.svg")
    assert list(tmp_path.iterdir()) == []


def test_missing_graphviz_is_said_before_the_module_runs(partly, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendUnavailable, match="apt-get install graphviz"):
        draw_gradients(partly, tmp_path / "net.svg")
