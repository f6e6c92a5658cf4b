import dataclasses

import pytest
import torch

from models import registry
from models.errors import UnknownName
from models.recipes import LENET5_RECIPES, recipe_named
from runtime.manifest import Preprocessing
from runtime.tensors import TensorSpec


def test_every_entry_says_what_its_module_takes_and_gives():
    for name in registry.names():
        entry = registry.entry(name)
        sizes = [{axis: bound[end] for axis, bound in entry.ranges.items()} for end in (0, 1)]
        for size in sizes:
            given = [
                torch.zeros([size.get(axis, axis) for axis in item.shape], dtype=torch.float32)
                for item in entry.inputs
            ]
            output = entry.load()(*given)
            assert output.shape == (size["batch"], len(entry.labels))
        assert entry.outputs == ("logits",)
        assert entry.name == name


@pytest.mark.parametrize("name", ["lenet5", "moe"])
def test_an_entry_fits_the_records_of_the_manifest(name):
    entry = registry.entry(name)
    image = Preprocessing(**dataclasses.asdict(entry.image))
    spec = TensorSpec(**dataclasses.asdict(entry.inputs[0]))
    assert (image.input, image.color, image.height, image.width) == ("image", "gray", 32, 32)
    assert (image.mean, image.std) == ((0.1307,), (0.3081,))
    assert str(spec) == "float32 [batch, 1, 32, 32]"
    assert entry.labels == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert entry.ranges == {"batch": (1, 64)}


def test_build_gives_a_fresh_module_each_time_and_load_the_trained_one_in_evaluation_mode():
    entry = registry.entry("lenet5")
    one, other = entry.build(), entry.build()
    assert not torch.equal(one.fc3.weight, other.fc3.weight)
    trained, again = entry.load(), entry.load()
    assert torch.equal(trained.fc3.weight, again.fc3.weight)
    assert trained is not again
    assert not trained.training


def test_a_name_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(UnknownName, match=r"no built-in model 'lenet'; use one of lenet5, moe$"):
        registry.entry("lenet")
    with pytest.raises(UnknownName, match="no recipe 'fast'; use one of lecture, best"):
        recipe_named(LENET5_RECIPES, "fast")


def test_the_lecture_recipe_is_that_of_the_source():
    recipe = LENET5_RECIPES["lecture"]
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (5, 64, 1e-3)
    assert (recipe.log_every, recipe.test_batch_size) == (100, 1000)
    assert (recipe.schedule, recipe.label_smoothing, recipe.weight_decay) == ("constant", 0, 0)
    assert recipe.augmentation is None
    assert recipe.chosen_on == "test"


def test_the_mixture_of_experts_is_kept_balanced_and_chosen_on_images_held_out():
    recipe = registry.entry("moe").recipes[registry.entry("moe").default_recipe]
    assert recipe.balance_weight > 0
    assert recipe.chosen_on == "validation"
