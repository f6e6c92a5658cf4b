import math

import numpy as np
import pytest
import torch
from torch import nn

from models.routing import (
    Routed,
    answer,
    balance,
    balance_loss,
    expert_tokens,
    least_share,
    top_k_lowest_index,
)

EVEN = torch.eye(4).mul(3) + torch.eye(4).roll(1, 1).mul(2)
"""``[4, 4]`` gate logits whose two best experts, over four tokens, take turns."""


def test_of_equal_values_those_of_the_lowest_index_are_taken():
    values = torch.tensor([[1.0, 5, 5, 5], [2, 2, 2, 2], [0, 7, 1, 7], [3, 1, 3, 4]])
    best, places = top_k_lowest_index(values, 2)
    assert places.tolist() == [[1, 2], [0, 1], [1, 3], [3, 0]]
    assert best.tolist() == [[5, 5], [2, 2], [7, 7], [4, 3]]


@pytest.mark.parametrize("count", [17, 64, 256])
def test_ties_go_to_the_lowest_index_among_many_values_too(count):
    _, places = top_k_lowest_index(torch.zeros(3, count), 8)
    assert places.tolist() == [list(range(8))] * 3


def test_every_token_is_counted_once_for_each_of_its_experts():
    logits = torch.tensor([[[3.0, 2, 1], [1, 3, 2]], [[3, 2, 1], [2, 2, 2]]])
    assert expert_tokens(logits, 1).tolist() == [3, 1, 0]
    assert expert_tokens(logits, 2).tolist() == [3, 4, 1]
    assert expert_tokens(logits[:0], 2).tolist() == [0, 0, 0]


def test_the_balance_loss_is_1_where_load_and_probability_are_even():
    assert expert_tokens(EVEN, 2).tolist() == [2, 2, 2, 2]
    assert balance_loss(EVEN, 2).item() == pytest.approx(1)


def test_the_balance_loss_is_that_of_its_formula():
    logits = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    expected = 0.0
    for expert in range(6):
        chosen = sum(expert in sorted(range(6), key=lambda e: -row[e])[:2] for row in logits)
        probability = sum(math.exp(row[expert]) / sum(map(math.exp, row)) for row in logits)
        expected += 6 * (chosen / 100) * (probability / 50)
    assert balance_loss(logits, 2).item() == pytest.approx(expected, rel=1e-12)
    assert balance_loss(logits.reshape(5, 10, 6), 2).item() == pytest.approx(expected, rel=1e-12)
    assert balance_loss(logits, 2).dtype == torch.float64


def test_the_balance_loss_grows_with_the_skew_up_to_experts_over_k():
    skew = torch.tensor([1.0, 1, 0, 0])
    losses = [balance_loss(EVEN + factor * skew, 2).item() for factor in (0, 1, 2, 4, 40)]
    assert losses == sorted(losses)
    assert losses[0] == pytest.approx(1)
    assert losses[-1] == pytest.approx(4 / 2)


def test_following_the_gradient_of_the_balance_loss_evens_out_the_load():
    chance = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 8, generator=chance) + torch.linspace(0, 3, 8)
    before = expert_tokens(logits, 2)
    gate = nn.Parameter(torch.zeros(8))
    balance_loss(logits + gate, 2).backward()
    assert gate.grad[before.argmax()] > 0, "the busiest expert's probability goes down"
    assert gate.grad[before.argmin()] < 0
    optimizer = torch.optim.Adam([gate], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        balance_loss(logits + gate, 2).backward()
        optimizer.step()
    after = expert_tokens(logits + gate, 2)
    assert balance(before.numpy()) < 0.3
    assert balance(after.numpy()) > 0.9


def test_no_tokens_give_no_balance_loss():
    assert balance_loss(torch.zeros(0, 4), 2).item() == 0
    assert balance_loss(torch.zeros(2, 0, 4), 2).item() == 0


def test_the_loss_of_a_model_is_the_mean_over_its_layers():
    skewed = EVEN + torch.tensor([9.0, 9, 0, 0])
    routed = Routed(torch.zeros(1, 10), (EVEN, skewed), top_k=2)
    assert routed.balance_loss().item() == pytest.approx((1 + balance_loss(skewed, 2).item()) / 2)
    assert routed.expert_tokens().tolist() == [[2, 2, 2, 2], [4, 4, 0, 0]]


def test_a_model_without_experts_answers_with_its_logits_alone():
    module = nn.Flatten()
    routed = answer(module, torch.ones(2, 1, 3))
    assert torch.equal(routed.logits, torch.ones(2, 3))
    assert routed.balance_loss().item() == 0
    assert routed.expert_tokens().shape == (0, 0)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [([5, 5, 5, 5], 1), ([10, 0], 0), ([4, 0, 0, 0], 1 - math.sqrt(3)), ([3, 1], 0.5), ([0, 0], 1)],
)
def test_balance_is_one_less_deviation_over_mean(tokens, expected):
    assert balance(tokens) == pytest.approx(expected)
    assert balance(np.array(tokens)) == pytest.approx(expected)


def test_the_least_share_is_that_of_the_worst_layer():
    assert least_share(np.array([[4, 4, 4, 4], [8, 4, 3, 1]])) == pytest.approx(0.25)
