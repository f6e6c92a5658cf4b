import inspect

import pytest
import torch

from models.lenet5 import LeNet5

# layer: output of one image, parameters
TABLE = {
    "conv1": ([6, 28, 28], 156),
    "relu1": ([6, 28, 28], 0),
    "pool1": ([6, 14, 14], 0),
    "conv2": ([16, 10, 10], 2_416),
    "relu2": ([16, 10, 10], 0),
    "pool2": ([16, 5, 5], 0),
    "flatten": ([400], 0),
    "fc1": ([120], 48_120),
    "relu3": ([120], 0),
    "fc2": ([84], 10_164),
    "relu4": ([84], 0),
    "fc3": ([10], 850),
}


def parameters_of(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_network_has_61706_parameters():
    assert parameters_of(LeNet5()) == 61_706


def test_every_layer_has_the_output_shape_and_the_parameters_of_the_source():
    module = LeNet5()
    found = {}
    for name, layer in module.named_children():
        layer.register_forward_hook(
            lambda layer, _, output, name=name: found.update(
                {name: (list(output.shape[1:]), parameters_of(layer))}
            )
        )
    module(torch.zeros(2, 1, 32, 32))
    assert list(found.items()) == list(TABLE.items()), "in the order in which they run"


def test_each_convolution_and_hidden_layer_is_rectified():
    module = LeNet5()
    seen = {}
    for name, layer in module.named_children():
        layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    logits = module(torch.randn(16, 1, 32, 32))
    for before, after in (
        ("conv1", "relu1"),
        ("conv2", "relu2"),
        ("fc1", "relu3"),
        ("fc2", "relu4"),
    ):
        assert (seen[before] < 0).any()
        assert torch.equal(seen[after], seen[before].clamp(min=0))
    assert (logits < 0).any(), "logits are not rectified"


def test_the_argument_is_called_image_because_the_graph_input_is():
    assert list(inspect.signature(LeNet5().forward).parameters) == ["image"]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_logits_have_a_row_per_image(batch):
    assert LeNet5()(torch.zeros(batch, 1, 32, 32)).shape == (batch, 10)
