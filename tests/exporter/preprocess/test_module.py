"""The preprocessing in torch is that of torch, torchvision and Pillow."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from exporter.preprocess.module import Preprocess, put_before
from exporter.truth import Truth
from runtime.manifest import Preprocessing
from runtime.preprocess import array_from_image

PLAIN = {"mean": (0.0,), "std": (1.0,)}


def record(height, width, color="rgb", **more):
    return Preprocessing("image", color, height, width, **{**PLAIN, **more})


def pixels(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.manual_seed(seed))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, image):
        return image * self.scale


@pytest.mark.parametrize(
    ("sides", "wanted"),
    [((28, 28), (32, 32)), ((100, 37), (32, 48)), ((1, 1), (8, 8)), ((480, 640), (224, 224)),
     ((7, 300), (9, 11)), ((24, 24), (24, 24))],
)  # fmt: skip
def test_the_resize_in_float64_is_torchs_antialiased_one(sides, wanted):
    module = Flat()
    put_before(module, Preprocess(record(*wanted), resizes=True))
    given = pixels(2, *sides, 3)
    truth = Truth(module)
    (answer,) = truth({"image": given.numpy()}).values()
    resized = nn.functional.interpolate(
        given.double().permute(0, 3, 1, 2), wanted, mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(answer, resized.numpy() / 255 * 2, rtol=0, atol=1e-14)
    assert truth.lowered == ()


@pytest.mark.parametrize("sides", [(300, 401), (401, 300), (224, 999), (256, 256), (257, 513)])
def test_a_shorter_side_and_a_crop_are_torchvisions(sides):
    module = Preprocess(record(224, 200, short_side=256), resizes=True)
    given = pixels(1, *sides, 3)
    wanted = transforms.Compose([transforms.Resize(256), transforms.CenterCrop((224, 200))])
    image = wanted(given.permute(0, 3, 1, 2).float()) / 255
    np.testing.assert_allclose(module(given), image, rtol=0, atol=2e-5)


@pytest.mark.parametrize("short_side", [None, 40])
def test_what_a_client_prepares_is_the_same_up_to_pillows_rounding_to_whole_pixels(short_side):
    more = {"mean": (0.485, 0.456, 0.406), "std": (0.25, 0.25, 0.25), "short_side": short_side}
    given = pixels(1, 90, 61, 3)
    by_client = array_from_image(Image.fromarray(given[0].numpy()), record(32, 36, **more))
    by_graph = Preprocess(record(32, 36, **more), resizes=True)(given)[0]
    # Pillow rounds twice, after each axis; a level is 1/255, here divided by std.
    np.testing.assert_allclose(by_graph, by_client, rtol=0, atol=1.01 / 255 / 0.25)
    assert np.abs(by_graph.numpy() - by_client).max() > 0


def test_pixels_of_the_right_size_are_prepared_to_the_bit_as_torchvision_does():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    given = pixels(1, 16, 16, 3)
    module = Preprocess(record(16, 16, mean=mean, std=std), resizes=False)
    wanted = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    assert torch.equal(module(given)[0], wanted(given[0].numpy()))


def test_the_modules_weights_and_paths_keep_their_names():
    module = Flat()
    before = list(module.state_dict())
    assert put_before(module, Preprocess(record(4, 4), resizes=False)) == "preprocess"
    assert list(module.state_dict()) == before
    copied = copy.deepcopy(module).double()
    given = pixels(1, 4, 4, 3)
    assert copied(image=given).shape == (1, 3, 4, 4)


def test_a_child_of_that_name_is_left_alone():
    module = Flat()
    module.preprocess = nn.ReLU()
    assert put_before(module, Preprocess(record(4, 4), resizes=False)) == "preprocess_"
    assert isinstance(module.preprocess, nn.ReLU)
