import inspect

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.moe import Expert, MoEClassifier, MoELayer

SHAPES = [(0, 6), (1, 6), (33, 6), (2, 0, 6), (0, 5, 6), (1, 1, 6), (3, 5, 6)]


def layer(width=6, hidden=10, experts=5, top_k=2, seed=0):
    torch.manual_seed(seed)
    return MoELayer(width, hidden, experts, top_k)


def dense(moe, x):
    """Every expert answers every token; written from the formula, with weights of 0."""
    logits = x @ moe.gate.weight.T + moe.gate.bias
    k, experts = moe.top_k, logits.shape[-1]
    # The rank of an expert: how many are larger, and equal ones before it.
    larger = logits.unsqueeze(-2) > logits.unsqueeze(-1)
    before = torch.ones(experts, experts).tril(-1).bool()
    equal = (logits.unsqueeze(-2) == logits.unsqueeze(-1)) & before
    chosen = (larger | equal).sum(-1) < k
    weight = logits.masked_fill(~chosen, -torch.inf).softmax(-1)
    output = torch.zeros_like(x)
    for index, expert in enumerate(moe.experts):
        hidden = (x @ expert.fc1.weight.T + expert.fc1.bias).clamp(min=0)
        output = output + weight[..., index : index + 1] * (
            hidden @ expert.fc2.weight.T + expert.fc2.bias
        )
    return output, logits


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_the_layer_gives_what_all_experts_weighted_by_the_gate_give(shape, top_k):
    moe = layer(top_k=top_k).double()
    x = torch.randn(shape, dtype=torch.float64)
    output, logits = moe(x)
    expected, expected_logits = dense(moe, x)
    assert output.shape == x.shape
    assert logits.shape == (*shape[:-1], 5)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(logits, expected_logits, rtol=1e-12, atol=1e-12)


def test_of_tied_gate_logits_the_lowest_index_is_taken():
    moe = layer(experts=8).double()
    with torch.no_grad():
        moe.gate.weight.zero_()
        moe.gate.bias.copy_(torch.tensor([0.0, 1, 0, 1, 0, 1, 1, 0]))
    x = torch.randn(7, 6, dtype=torch.float64)
    output, _ = moe(x)
    expected = 0.5 * moe.experts[1](x) + 0.5 * moe.experts[3](x)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output, dense(moe, x)[0], rtol=1e-12, atol=1e-12)


def test_only_experts_that_were_hit_run_and_only_on_their_tokens():
    moe = layer()
    with torch.no_grad():
        moe.gate.weight.zero_()
        moe.gate.bias.copy_(torch.tensor([0.0, 3, 0, 0, 2]))
    ran = []
    for index, expert in enumerate(moe.experts):
        expert.register_forward_hook(lambda _, given, __, i=index: ran.append((i, len(given[0]))))
    moe(torch.randn(2, 3, 6))
    assert ran == [(1, 6), (4, 6)]


def test_gradients_reach_gate_and_experts_as_in_the_dense_form():
    moe = layer(seed=3).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    found = torch.autograd.grad(moe(x)[0].square().sum(), list(moe.parameters()))
    expected = torch.autograd.grad(dense(moe, x)[0].square().sum(), list(moe.parameters()))
    for (name, _), one, other in zip(moe.named_parameters(), found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12, msg=name)


def test_tokens_of_another_width_are_refused():
    with pytest.raises(RuntimeError, match="12"):
        layer()(torch.zeros(3, 12))


@pytest.mark.parametrize("top_k", [0, 6])
def test_a_top_k_that_no_token_can_have_is_refused(top_k):
    with pytest.raises(ValueError, match=f"top_k is {top_k}; with 5 experts give 1 to 5"):
        MoELayer(6, 10, 5, top_k)


def test_an_expert_is_linear_relu_linear():
    expert = Expert(6, 10)
    x = torch.randn(4, 6)
    expected = (x @ expert.fc1.weight.T + expert.fc1.bias).relu() @ expert.fc2.weight.T
    torch.testing.assert_close(expert(x), expected + expert.fc2.bias)


def parameters_of(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_parameters_are_those_of_stem_experts_and_head():
    width, hidden = 48, 96
    expert = (width * hidden + hidden) + (hidden * width + width)
    block = 8 * expert + (width * 8 + 8) + 2 * width
    stem = (16 * 25 + 16) + (width * 16 * 25 + width)
    head = 25 * width * 10 + 10
    assert parameters_of(MoEClassifier()) == stem + 25 * width + 3 * block + 2 * width + head
    assert parameters_of(MoELayer(48, 96, 8, 2)) == 8 * expert + width * 8 + 8


def test_the_classifier_has_three_layers_of_eight_experts_of_which_a_token_sees_two():
    layers = [part for part in MoEClassifier().modules() if isinstance(part, MoELayer)]
    assert [(len(part.experts), part.top_k) for part in layers] == [(8, 2)] * 3


def test_the_argument_is_called_image_because_the_graph_input_is():
    assert list(inspect.signature(MoEClassifier().forward).parameters) == ["image"]


@pytest.mark.parametrize("batch", [1, 3])
def test_every_image_has_ten_logits_and_25_tokens_a_layer(batch):
    module = MoEClassifier().eval()
    routed = module.routed(torch.randn(batch, 1, 32, 32))
    assert routed.logits.shape == (batch, 10)
    assert [tuple(logits.shape) for logits in routed.gate_logits] == [(batch, 25, 8)] * 3
    assert routed.expert_tokens().sum(1).tolist() == [2 * 25 * batch] * 3


def test_forward_gives_the_logits_that_training_sees():
    module, image = MoEClassifier().eval(), torch.randn(2, 1, 32, 32)
    assert torch.equal(module(image), module.routed(image).logits)


def test_the_gate_logits_are_those_of_the_layers_in_their_order():
    module, seen = MoEClassifier().eval(), []
    for block in module.blocks:
        block.moe.register_forward_hook(lambda _, __, output: seen.append(output[1]))
    routed = module.routed(torch.randn(2, 1, 32, 32))
    assert all(map(torch.equal, routed.gate_logits, seen))
    assert len(seen) == 3


def test_the_answer_to_an_image_does_not_depend_on_its_companions():
    module = MoEClassifier().eval().double()
    images = torch.randn(6, 1, 32, 32, dtype=torch.float64)
    alone = torch.cat([module(image) for image in images.split(1)])
    torch.testing.assert_close(module(images), alone, rtol=1e-12, atol=1e-12)


class NoLowerFloat(TorchDispatchMode):
    """Refuses any operator that takes or gives less than float64."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for value in (*args, *(output if isinstance(output, (tuple, list)) else (output,))):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                assert value.dtype == torch.float64, function
        return output


def test_in_float64_no_operator_falls_back_to_a_lower_float():
    module = MoEClassifier().eval().double()
    with NoLowerFloat():
        routed = module.routed(torch.randn(2, 1, 32, 32, dtype=torch.float64))
        loss = routed.balance_loss()
    assert routed.logits.dtype == loss.dtype == torch.float64
