"""Adapters read the layers of others: their routing and weights give the layer's own answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from exporter.experts.adapters import adapter_for, find_layers, moe_adapter
from exporter.experts.spec import (
    MoESpec,
    Routing,
    choice_gaps,
    expert_counts,
    route,
    top_k_lowest_index,
)
from runtime.errors import ExportError

WIDTH, HIDDEN, EXPERTS = 16, 24, 8


class Expert(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))

    def forward(self, x):
        return self.net(x)


class Loop(nn.Module):
    """The layer as tutorials write it: boolean masks and ``if mask.any()``."""

    def __init__(self, experts=EXPERTS, k=2):
        super().__init__()
        self.gate = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(Expert() for _ in range(experts))
        self.k = k

    def forward(self, x):
        logits = self.gate(x)
        best, chosen = torch.topk(logits, self.k, dim=-1)
        weight = best.softmax(-1)
        output = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            mask = (chosen == index).any(-1)
            if mask.any():
                share = (weight * (chosen == index)).sum(-1)[mask]
                output[mask] += expert(x[mask]) * share.unsqueeze(-1)
        return output, logits


def transformers_block(name):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    common = {"hidden_size": WIDTH, "num_experts_per_tok": 2, "hidden_act": "silu"}
    if name == "mixtral":
        from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock as Block

        config = transformers.MixtralConfig(
            **common, intermediate_size=HIDDEN, num_local_experts=EXPERTS
        )
    elif name.startswith("qwen3"):
        from transformers.models.qwen3_moe.modeling_qwen3_moe import (
            Qwen3MoeSparseMoeBlock as Block,
        )

        config = transformers.Qwen3MoeConfig(
            **common, moe_intermediate_size=HIDDEN, num_experts=EXPERTS,
            norm_topk_prob=name.endswith("normalised"),
        )  # fmt: skip
    else:
        from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE as Block

        config = transformers.DeepseekV3Config(
            **common, moe_intermediate_size=HIDDEN, n_routed_experts=EXPERTS, n_group=4,
            topk_group=2, n_shared_experts=1, routed_scaling_factor=2.5,
        )  # fmt: skip
    block = Block(config).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    if hasattr(block.gate, "e_score_correction_bias"):
        block.gate.e_score_correction_bias.copy_(torch.randn(EXPERTS) * 0.1)
    return block


ACTIVATIONS = {"relu": functional.relu, "silu": functional.silu, "gelu": functional.gelu}


def part_of(spec: MoESpec, name, expert):
    place = spec.weights.index(name) if name in spec.weights else None
    if place is None:
        return None
    if spec.stacked:
        return spec.tensors[place][expert]
    return spec.tensors[expert * len(spec.weights) + place]


def by_specification(spec: MoESpec, x):
    """The layer's answer from nothing but its specification, one token and expert at a time."""
    tokens = x.reshape(-1, spec.width)
    chosen = route(spec, tokens)
    best = top_k_lowest_index(chosen.choice, spec.routing.top_k)
    weight = chosen.scores.gather(1, best)
    if spec.routing.normalise == "softmax":
        weight = weight.softmax(-1)
    elif spec.routing.normalise == "sum":
        weight = weight / (weight.sum(-1, keepdim=True) + spec.routing.epsilon)
    weight = weight * spec.routing.scale
    act = ACTIVATIONS[spec.activation]
    output = torch.zeros_like(tokens)
    for t, token in enumerate(tokens):
        for place, e in enumerate(best[t].tolist()):
            if "gate_up" in spec.weights:
                gate, up = functional.linear(token, part_of(spec, "gate_up", e)).chunk(2)
                inner = act(gate) * up
            else:
                inner = act(functional.linear(token, part_of(spec, "up", e),
                                              part_of(spec, "up_bias", e)))  # fmt: skip
            down = part_of(spec, "down", e), part_of(spec, "down_bias", e)
            output[t] += weight[t, place] * functional.linear(inner, *down)
    if spec.shared is not None:
        output = output + spec.shared(tokens)
    return output.reshape(x.shape)


@pytest.mark.parametrize(
    "name", ["mixtral", "qwen3", "qwen3 normalised", "deepseek_v3"]
)  # fmt: skip
def test_a_block_of_transformers_is_what_its_adapter_says(name):
    block = transformers_block(name)
    x = torch.randn(3, 5, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(
            by_specification(adapter_for(block)(block), x), block(x), rtol=1e-5, atol=1e-5
        )


def test_a_hand_written_loop_is_what_its_adapter_says():
    torch.manual_seed(0)
    layer = Loop().eval()
    x = torch.randn(11, WIDTH)
    with torch.no_grad():
        spec = adapter_for(layer)(layer)
        torch.testing.assert_close(by_specification(spec, x), layer(x)[0], rtol=1e-5, atol=1e-6)
    assert spec.returns_logits
    assert spec.routing.top_k == 2


def test_our_own_layer_is_what_its_adapter_says():
    from models.moe import MoELayer

    torch.manual_seed(0)
    layer = MoELayer(WIDTH, HIDDEN, EXPERTS, 2).eval()
    x = torch.randn(2, 9, WIDTH)
    with torch.no_grad():
        spec = adapter_for(layer)(layer)
        torch.testing.assert_close(by_specification(spec, x), layer(x)[0], rtol=1e-5, atol=1e-6)


def test_layers_are_found_by_their_paths_and_not_inside_each_other():
    model = nn.Sequential(nn.Linear(4, WIDTH), nn.ModuleDict({"a": Loop(), "b": Loop()}))
    assert [layer.path for layer in find_layers(model).layers] == ["1.a", "1.b"]
    assert not find_layers(nn.Linear(3, 3))


def test_layers_with_different_numbers_of_experts_are_refused():
    with pytest.raises(ExportError, match="4 and 8 experts"):
        find_layers(nn.Sequential(Loop(4), Loop(8)))


def test_a_user_can_add_a_layer():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.router = nn.Linear(WIDTH, EXPERTS, bias=False)
            self.w1 = nn.Parameter(torch.randn(EXPERTS, HIDDEN, WIDTH))
            self.w2 = nn.Parameter(torch.randn(EXPERTS, WIDTH, HIDDEN))

    @moe_adapter(Mine)
    def read(layer):
        return MoESpec(
            gate=layer.router.weight, routing=Routing(1), activation="relu",
            weights=("up", "down"), tensors=(layer.w1, layer.w2), stacked=True,
        )  # fmt: skip

    (found,) = find_layers(nn.Sequential(nn.Identity(), Mine())).layers
    assert found.path == "1"
    assert found.spec.experts == EXPERTS


def test_an_adapter_that_cannot_read_its_layer_names_it():
    class MixtralSparseMoeBlock(nn.Module):
        """Another library's class of the same name."""

    with pytest.raises(ExportError, match=r"cannot read layer 'block'.*@moe_adapter"):
        find_layers(nn.ModuleDict({"block": MixtralSparseMoeBlock()}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": ("up", "sideways")}, "no part 'sideways'"),
        ({"tensors": ()}, "wanted 2"),
        ({"routing": Routing(9)}, "top_k is 9"),
    ],
)
def test_a_specification_that_does_not_add_up_is_refused(changes, message):
    right = {
        "gate": torch.randn(EXPERTS, WIDTH), "routing": Routing(2), "activation": "relu",
        "weights": ("up", "down"), "stacked": True,
        "tensors": (torch.randn(8, 4, 4), torch.randn(8, 4, 4)),
    }  # fmt: skip
    with pytest.raises(ExportError, match=message):
        MoESpec(**{**right, **changes})


def test_ties_go_to_the_lowest_index():
    values = torch.tensor([[1.0, 3, 3, 3], [2, 2, 2, 2], [0, 1, 0, 1]])
    assert top_k_lowest_index(values, 2).tolist() == [[1, 2], [0, 1], [1, 3]]


def test_counts_add_up_by_row():
    chosen = torch.tensor([[0, 1], [0, 2], [3, 1], [0, 1]])
    assert expert_counts(chosen, 2, 4).tolist() == [[2, 1, 1, 0], [1, 2, 0, 1]]
    assert expert_counts(chosen[:0], 0, 4).shape == (0, 4)


def test_the_gap_is_between_the_last_chosen_and_the_next():
    gaps = choice_gaps(torch.tensor([[5.0, 1, 4, -8], [1, 1, 1, 1]]), 2)
    assert gaps.gap.tolist() == [3, 0]
    assert gaps.size.tolist() == [8, 1]


def test_all_experts_or_all_open_ones_are_always_a_clear_choice():
    assert choice_gaps(torch.zeros(1, 3), 3).gap.isinf().all()
    closed = torch.tensor([[1.0, 2, -torch.inf, -torch.inf]])
    gaps = choice_gaps(closed, 2)
    assert gaps.gap.isinf().all()
    assert gaps.size.tolist() == [2]
