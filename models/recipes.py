"""How a model is trained, as data; the optimizer and the schedule that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from models.errors import TrainingProblem, UnknownName


@dataclass(frozen=True)
class Augmentation:
    """Largest affine change of a training image; each one is drawn evenly from ± these."""

    degrees: float
    shift_pixels: float
    scale: float
    """Of the size; 0.1 gives 90 to 110 %."""
    shear: float


@dataclass(frozen=True)
class Recipe:
    """Everything but the seed that decides what a training run gives."""

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    """Of Adam; with the one-cycle schedule its peak."""
    schedule: Literal["constant", "one-cycle"] = "constant"
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation | None = None
    held_out: float = 0.0
    """The last part of the training images, kept back to choose the best epoch; where
    it is 0, the test images choose."""
    best_by: Literal["accuracy", "loss"] = "accuracy"
    """What makes an epoch the best; the loss where few images choose, since their accuracy
    differs more by chance than the last epochs do."""
    test_batch_size: int = 1000
    log_every: int = 100
    balance_weight: float = 0.0
    """Of the loss that keeps experts balanced (``models.routing.balance_loss``), for models
    that have experts."""

    def __post_init__(self) -> None:
        """Refuse a recipe that cannot be followed."""
        if self.epochs < 1:
            raise TrainingProblem(f"{self.epochs} epochs were asked for; wanted at least 1")

    @property
    def chosen_on(self) -> Literal["validation", "test"]:
        """The images that choose the best epoch."""
        return "validation" if self.held_out else "test"


LENET5_RECIPES: Mapping[str, Recipe] = {
    "lecture": Recipe("lecture", epochs=5, batch_size=64, learning_rate=1e-3),
    "best": Recipe(
        "best",
        epochs=30,
        batch_size=128,
        learning_rate=6e-3,
        schedule="one-cycle",
        label_smoothing=0.05,
        augmentation=Augmentation(degrees=10.0, shift_pixels=2.0, scale=0.1, shear=0.1),
        held_out=1 / 12,
        best_by="loss",
    ),
}


MOE_RECIPES: Mapping[str, Recipe] = {
    "best": Recipe(
        "best",
        epochs=14,
        batch_size=128,
        learning_rate=4e-3,
        schedule="one-cycle",
        label_smoothing=0.05,
        augmentation=Augmentation(degrees=10.0, shift_pixels=2.0, scale=0.1, shear=0.1),
        held_out=1 / 12,
        best_by="loss",
        balance_weight=0.02,
    ),
}


def recipe_named(recipes: Mapping[str, Recipe], name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        UnknownName: The table has no such recipe.
    """
    try:
        return recipes[name]
    except KeyError:
        raise UnknownName(f"there is no recipe '{name}'; use one of {', '.join(recipes)}") from None


def optimizer_from_recipe(recipe: Recipe, module: nn.Module) -> torch.optim.Optimizer:
    """Adam, as every recipe has it."""
    return torch.optim.Adam(
        module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )


def schedule_from_recipe(
    recipe: Recipe, optimizer: torch.optim.Optimizer, batches: int
) -> LRScheduler | None:
    """The schedule over all batches of a run; None where the rate stays.

    Args:
        recipe: The recipe.
        optimizer: Whose learning rate the schedule moves.
        batches: Per epoch.
    """
    if recipe.schedule == "constant":
        return None
    return OneCycleLR(
        optimizer, recipe.learning_rate, epochs=recipe.epochs, steps_per_epoch=batches
    )
