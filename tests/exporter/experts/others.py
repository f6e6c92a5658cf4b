"""Other people's layers as a user's file would make them, small and with fixed weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

WIDTH, HIDDEN, EXPERTS = 16, 24, 8


def _filled(block: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def mixtral():
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=WIDTH, intermediate_size=HIDDEN, num_local_experts=EXPERTS,
        num_experts_per_tok=2, hidden_act="silu",
    )  # fmt: skip
    return _filled(MixtralSparseMoeBlock(config))


def qwen3():
    from transformers import Qwen3MoeConfig
    from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeSparseMoeBlock

    config = Qwen3MoeConfig(
        hidden_size=WIDTH, moe_intermediate_size=HIDDEN, num_experts=EXPERTS,
        num_experts_per_tok=2, norm_topk_prob=True, hidden_act="silu",
    )  # fmt: skip
    return _filled(Qwen3MoeSparseMoeBlock(config))


def deepseek_v3():
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE

    config = DeepseekV3Config(
        hidden_size=WIDTH, moe_intermediate_size=HIDDEN, n_routed_experts=EXPERTS, n_group=4,
        topk_group=2, n_shared_experts=1, num_experts_per_tok=2, routed_scaling_factor=2.5,
        hidden_act="silu",
    )  # fmt: skip
    block = _filled(DeepseekV3MoE(config))
    block.gate.e_score_correction_bias.copy_(torch.randn(EXPERTS) * 0.1)
    return block


def _expert():
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))


class MaskedLoop(nn.Module):
    """The source's own loop, with boolean masks and ``if mask.any()``."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(_expert() for _ in range(EXPERTS))
        self.top_k = 2

    def forward(self, x):
        logits = self.gate(x)
        best, chosen = torch.topk(logits, self.top_k, dim=-1)
        weight = best.softmax(-1)
        output = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            mask = (chosen == index).any(-1)
            if mask.any():
                share = (weight * (chosen == index)).sum(-1)[mask]
                output[mask] += expert(x[mask]) * share.unsqueeze(-1)
        return output, logits


class UnknownLoop(MaskedLoop):
    """The same under names that no adapter knows."""

    def __init__(self):
        super().__init__()
        self.router, self.gate = self.gate, nn.Identity()

    def forward(self, x):
        self.gate.forward = self.router.forward
        return super().forward(x)[0]


class UnknownDense(nn.Module):
    """Every expert for every token, weighed by a softmax over all of them."""

    def __init__(self):
        super().__init__()
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = nn.ModuleList(_expert() for _ in range(EXPERTS))

    def forward(self, x):
        weight = functional.softmax(self.router(x), dim=-1)
        every = torch.stack([expert(x) for expert in self.experts], dim=-2)
        return (every * weight.unsqueeze(-1)).sum(-2)


class Around(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.block = block

    def forward(self, hidden_states):
        return hidden_states + self.block(self.norm(hidden_states))


def masked_loop():
    return _filled(MaskedLoop())


def unknown_loop():
    return Around(_filled(UnknownLoop()))


def unknown_dense():
    return Around(_filled(UnknownDense()))
