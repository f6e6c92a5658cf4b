"""A training run: what it was asked to do, where it stands, and how it goes on."""

from __future__ import annotations

import dataclasses
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.errors import TrainingProblem
from models.files import write_atomically
from models.recipes import Recipe, optimizer_from_recipe, schedule_from_recipe
from models.seeding import random_state, set_random_state

STATE_FILE = "state.pt"
STATE_FORMAT = 1


@dataclass(frozen=True)
class Job:
    """One training run as it was asked for.

    Attributes:
        model: A name of ``models.registry``.
        recipe: How to train.
        seed: Of every source of chance.
        output: The folder of the run; all its files lie there.
        dataset: A name of ``models.data.DATASETS``.
        data: The folder for MNIST, see ``models.data.find_mnist``.
        device: A name of ``models.seeding.DEVICES``.
        resume: Go on with the run that ``output`` holds.
    """

    model: str
    recipe: Recipe
    seed: int
    output: Path
    dataset: str = "mnist"
    data: Path | None = None
    device: str = "auto"
    resume: bool = False

    def command(self, *, epochs_of_recipe: int) -> str:
        """The command line that does this again, without the folders of this machine."""
        words = ["twinport", "train", self.model, "--recipe", self.recipe.name]
        words += ["--dataset", self.dataset] if self.dataset != "mnist" else []
        if self.recipe.epochs != epochs_of_recipe:
            words += ["--epochs", str(self.recipe.epochs)]
        return " ".join([*words, "--seed", str(self.seed)])

    def identity(self, data_sha256: str) -> dict[str, Any]:
        """All that decides the result; a run only goes on where this is the same."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "seed": self.seed,
            **{f"recipe {key}": value for key, value in _plain(self.recipe).items()},
            "data SHA-256": data_sha256,
        }


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch."""

    epoch: int
    """Counted from 1."""
    train_loss: float
    """Mean over the training images as the recipe changed and smoothed them, with the
    weighted balance loss where there are experts: what the optimizer lowers."""
    loss: float
    """Plain cross-entropy over the images that choose the best epoch."""
    accuracy: float
    """Share of right answers over the same images."""
    balance: tuple[float, ...] = ()
    """How evenly each layer used its experts on the same images (``models.routing.balance``);
    empty where the model has none."""

    def better_than(self, other: EpochRecord, by: Literal["accuracy", "loss"]) -> bool:
        """Whether this epoch's weights should replace the other's; the second number breaks ties.

        Args:
            other: An earlier epoch.
            by: Which of the two numbers counts first.
        """
        if by == "accuracy":
            return (self.accuracy, -self.loss) > (other.accuracy, -other.loss)
        return (-self.loss, self.accuracy) > (-other.loss, other.accuracy)


class Run:
    """The module in training with all that its next step depends on."""

    def __init__(
        self, module: nn.Module, recipe: Recipe, *, seed: int, batches: int, device: torch.device
    ) -> None:
        self.module = module.to(device)
        self.recipe = recipe
        self.batches = batches
        self.device = device
        self.optimizer = optimizer_from_recipe(recipe, self.module)
        self.schedule = schedule_from_recipe(recipe, self.optimizer, batches)
        # Orders and changes of images are drawn on the CPU: the same on every device.
        self.chance = torch.Generator().manual_seed(seed)
        self.records: list[EpochRecord] = []
        self.best_epoch = 0
        self.best_weights: dict[str, Tensor] = {}

    @property
    def epoch(self) -> int:
        """Epochs that are finished."""
        return len(self.records)

    @property
    def best(self) -> EpochRecord:
        """The record of the epoch whose weights are kept."""
        return self.records[self.best_epoch - 1]

    def finish_epoch(self, record: EpochRecord) -> bool:
        """Note an epoch; keep its weights and say True where it is the best so far."""
        better = not self.records or record.better_than(self.best, self.recipe.best_by)
        self.records.append(record)
        if better:
            self.best_epoch = record.epoch
            self.best_weights = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.module.state_dict().items()
            }
        return better

    def save(self, folder: Path, identity: dict[str, Any]) -> None:
        """Write the state file, whole or not at all."""
        content = io.BytesIO()
        torch.save(
            {
                "format": STATE_FORMAT,
                "identity": identity,
                "module": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict() if self.schedule else None,
                "chance": self.chance.get_state(),
                "random": random_state(),
                "records": [dataclasses.asdict(record) for record in self.records],
                "best_epoch": self.best_epoch,
                "best_weights": self.best_weights,
            },
            content,
        )
        write_atomically(folder / STATE_FILE, content.getvalue())

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where the run stood when ``state`` was saved."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.chance.set_state(state["chance"])
        set_random_state(state["random"])
        self.records = [EpochRecord(**record) for record in state["records"]]
        self.best_epoch = state["best_epoch"]
        self.best_weights = state["best_weights"]


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state file of a run; nothing in it is executed.

    Raises:
        TrainingProblem: There is none, it is damaged, or another release wrote it.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise TrainingProblem(
            f"'{folder}' holds no run to resume ({STATE_FILE} is missing); leave --resume out to "
            "begin one"
        )
    try:
        # On the CPU, where the generators' states must be; the module moves its own.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingProblem(
            f"'{path}' cannot be read ({type(error).__name__}); delete the folder and train again"
        ) from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise TrainingProblem(
            f"'{path}' was written by another release; delete the folder and train again"
        )
    return state


def check_same_run(state: dict[str, Any], identity: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with another run than the one that was begun.

    A part of the recipe that the state does not have came later; the run had its default.

    Raises:
        TrainingProblem: Something that decides the result differs; the text names it.
    """
    begun = {**_RECIPE_DEFAULTS, **state["identity"]}
    for key in [*identity, *(key for key in begun if key not in identity)]:
        if begun.get(key) != identity.get(key):
            raise TrainingProblem(
                f"the run in '{folder}' was begun with {key} {begun.get(key)}, asked for is "
                f"{identity.get(key)}; resume it as it was begun or choose another --output"
            )


def refuse_to_overwrite(folder: Path) -> None:
    """Refuse a folder that holds a run already.

    Raises:
        TrainingProblem: There is a state file.
    """
    if (folder / STATE_FILE).exists():
        raise TrainingProblem(
            f"'{folder}' holds a run already; go on with it by --resume, choose another --output, "
            "or delete the folder"
        )


_RECIPE_DEFAULTS = {
    f"recipe {field.name}": field.default
    for field in dataclasses.fields(Recipe)
    if field.default is not dataclasses.MISSING
}


def _plain(recipe: Recipe) -> dict[str, Any]:
    return dataclasses.asdict(recipe)
