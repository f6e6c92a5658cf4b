"""The built-in models by name: how they are built, what they take, what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from models.checkpoint import load_checkpoint
from models.data import MEAN, SIDE, STD
from models.errors import UnknownName
from models.lenet5 import LeNet5
from models.moe import MoEClassifier
from models.recipes import LENET5_RECIPES, MOE_RECIPES, Recipe

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class InputEntry:
    """One argument of ``forward``, by its name.

    Attributes:
        name: The argument's name.
        dtype: torch's name of the data type.
        shape: A number for a fixed axis, a name for a free one.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ImageEntry:
    """How an image becomes the input: resized, scaled to [0, 1], ``(x - mean) / std``."""

    input: str
    color: Literal["gray", "rgb"]
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Literal["bilinear"] = "bilinear"


@dataclass(frozen=True)
class ModelEntry:
    """What the other packages must know of a built-in model.

    Attributes:
        name: On the command line and in the model repository.
        build: Gives a fresh module with weights by chance.
        checkpoint: The trained weights; the card lies beside them.
        inputs: In the order of ``forward``.
        outputs: Names, in the order that ``forward`` returns them.
        ranges: Smallest and largest size of each free axis.
        recipes: Ways to train it.
        default_recipe: The one that made the checkpoint.
        labels: Of the classes, where there are any.
        image: Where an input is made from a picture.
    """

    name: str
    build: Callable[[], nn.Module]
    checkpoint: Path
    inputs: tuple[InputEntry, ...]
    outputs: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int]]
    recipes: Mapping[str, Recipe]
    default_recipe: str
    labels: tuple[str, ...] | None = None
    image: ImageEntry | None = None

    def load(self) -> nn.Module:
        """The trained module in evaluation mode.

        Raises:
            CheckpointProblem: The checkpoint is missing, changed or another model's.
        """
        module = self.build()
        load_checkpoint(module, self.checkpoint)
        return module.eval()


_DIGIT_INPUT = (InputEntry("image", "float32", ("batch", 1, SIDE, SIDE)),)
_DIGIT = ImageEntry("image", "gray", SIDE, SIDE, (MEAN,), (STD,))

_ENTRIES: Mapping[str, ModelEntry] = {
    "lenet5": ModelEntry(
        name="lenet5",
        build=LeNet5,
        checkpoint=CHECKPOINTS / "lenet5.safetensors",
        inputs=_DIGIT_INPUT,
        outputs=("logits",),
        ranges={"batch": (1, 64)},
        recipes=LENET5_RECIPES,
        default_recipe="best",
        labels=tuple("0123456789"),
        image=_DIGIT,
    ),
    "moe": ModelEntry(
        name="moe",
        build=MoEClassifier,
        checkpoint=CHECKPOINTS / "moe.safetensors",
        inputs=_DIGIT_INPUT,
        outputs=("logits",),
        ranges={"batch": (1, 64)},
        recipes=MOE_RECIPES,
        default_recipe="best",
        labels=tuple("0123456789"),
        image=_DIGIT,
    ),
}


def names() -> tuple[str, ...]:
    """The names of all built-in models."""
    return tuple(_ENTRIES)


def entry(name: str) -> ModelEntry:
    """Look a built-in model up.

    Raises:
        UnknownName: There is none of that name; the text lists those there are.
    """
    try:
        return _ENTRIES[name]
    except KeyError:
        raise UnknownName(
            f"there is no built-in model '{name}'; use one of {', '.join(_ENTRIES)}"
        ) from None
