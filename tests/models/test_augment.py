import pytest
import torch

from models.augment import augment
from models.recipes import Augmentation

NOTHING = Augmentation(degrees=0, shift_pixels=0, scale=0, shear=0)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def blobs(count=64):
    """A bright bar, off the middle, in every image."""
    images = torch.zeros(count, 1, 32, 32)
    images[:, :, 10:20, 14:17] = 1
    return images


def centres(images):
    places = torch.arange(32) + 0.5
    ink = images[:, 0]
    mass = ink.sum((1, 2))
    return (ink.sum(1) * places).sum(1) / mass, (ink.sum(2) * places).sum(1) / mass


def test_no_change_leaves_every_image_as_it_is():
    assert torch.allclose(augment(blobs(), NOTHING, chance()), blobs(), atol=1e-5)


def test_images_shift_up_to_the_limit_in_both_directions_each_on_its_own():
    moved = augment(blobs(500), Augmentation(0, 2.0, 0, 0), chance())
    for before, after in zip(centres(blobs(500)), centres(moved), strict=True):
        shift = after - before
        assert shift.abs().max() <= 2.0 + 1e-3
        assert shift.max() > 1.9
        assert shift.min() < -1.9


def test_images_grow_and_shrink_up_to_the_limit():
    sized = augment(blobs(500), Augmentation(0, 0, 0.1, 0), chance())
    area = sized.sum((1, 2, 3)) / 30
    assert 0.75 < area.min() < 0.86
    assert 1.15 < area.max() < 1.25


@pytest.mark.parametrize("limits", [Augmentation(10, 0, 0, 0), Augmentation(0, 0, 0, 0.2)])
def test_turning_and_shearing_keep_the_area(limits):
    turned = augment(blobs(200), limits, chance())
    assert turned.sum((1, 2, 3)) == pytest.approx(30, rel=0.05)
    assert not torch.allclose(turned, blobs(200), atol=0.1)


def test_what_comes_in_from_outside_is_black():
    moved = augment(torch.ones(100, 1, 32, 32), Augmentation(0, 2.0, 0, 0), chance())
    assert moved.min() == 0
    assert moved.max() <= 1 + 1e-5


def test_the_changes_come_from_the_generator_alone():
    limits = Augmentation(10, 2, 0.1, 0.1)
    torch.manual_seed(1)
    one = augment(blobs(), limits, chance(3))
    torch.manual_seed(2)
    assert torch.equal(one, augment(blobs(), limits, chance(3)))
    assert not torch.equal(one, augment(blobs(), limits, chance(4)))
