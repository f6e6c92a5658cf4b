"""Train a built-in model: epochs, the best checkpoint kept, resume to the bit, pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.augment import augment
from models.checkpoint import Card, save_checkpoint
from models.data import DataSet, Split, load_dataset, normalised
from models.errors import TrainingProblem
from models.files import make_folder
from models.plots import curves_figure, experts_figure, predictions_figure, save_png
from models.recipes import Recipe
from models.registry import ModelEntry, entry
from models.routing import answer, least_share
from models.run import EpochRecord, Job, Run, check_same_run, read_state, refuse_to_overwrite
from models.score import Part, Score, evaluate, part_from_split
from models.seeding import choose_device, describe_device, seed_everything
from models.watch import Silence, Watch

OnGraph: TypeAlias = Callable[[Tensor, nn.Module, int, int], None]
"""Called with logits, module, epoch and batch (from 1) on the first batch of each epoch."""

PICTURED = 5


@dataclass(frozen=True)
class Trained:
    """What a finished run left in its folder."""

    card: Card
    weights: Path
    curves: Path
    predictions: Path
    records: tuple[EpochRecord, ...]
    experts: Path | None = None
    """Who got the tokens of the test images; None where the model has no experts."""


def train(job: Job, watch: Watch | None = None, on_graph: OnGraph | None = None) -> Trained:
    """Train one model, or go on with a run that was interrupted.

    Every finished epoch is on the disk; whatever ends the run, ``KeyboardInterrupt``
    included, costs at most the epoch that was under way.

    Raises:
        ModelsError: The job cannot be begun or gone on with, or the loss is not finite.
    """
    watch = watch or Silence()
    model = entry(job.model)
    if not job.resume:
        refuse_to_overwrite(job.output)
    device = choose_device(job.device)
    watch.note(f"device: {describe_device(device)}")
    data = load_dataset(job.dataset, job.data, watch.note)
    fit, held_out = _divide(data.train, job.recipe.held_out)
    learned = part_from_split(fit, device)
    scored = part_from_split(held_out if job.recipe.held_out else data.test, device)
    identity = job.identity(data.sha256)
    make_folder(job.output)
    run = _open_run(job, model, identity, len(learned), device)
    while run.epoch < job.recipe.epochs:
        train_loss = _train_epoch(run, learned, watch, on_graph)
        score = evaluate(run.module, scored, job.recipe.test_batch_size)
        record = EpochRecord(run.epoch + 1, train_loss, score.loss, score.accuracy, score.balance)
        if run.finish_epoch(record):
            _save_best(job, model, run, data)
        run.save(job.output, identity)
        watch.epoch(run.records[-1], job.recipe)
    return _finish(job, model, run, data)


def _divide(every: Split, share: float) -> tuple[Split, Split]:
    kept = len(every) - round(len(every) * share)
    return every[:kept], every[kept:]


def _open_run(
    job: Job, model: ModelEntry, identity: dict[str, object], images: int, device: torch.device
) -> Run:
    seed_everything(job.seed)
    batches = math.ceil(images / job.recipe.batch_size)
    run = Run(model.build(), job.recipe, seed=job.seed, batches=batches, device=device)
    if job.resume:
        state = read_state(job.output)
        check_same_run(state, identity, job.output)
        run.restore(state)
    return run


def _train_epoch(run: Run, part: Part, watch: Watch, on_graph: OnGraph | None) -> float:
    """One pass over a part in an order by chance; gives the mean loss over its images."""
    recipe, epoch = run.recipe, run.epoch + 1
    run.module.train()
    order = torch.randperm(len(part), generator=run.chance)
    total = torch.zeros((), dtype=torch.float64, device=run.device)
    for batch, chosen in enumerate(torch.split(order, recipe.batch_size), start=1):
        logits, loss = _forward(run, part, chosen.to(run.device))
        if on_graph is not None and batch == 1:
            on_graph(logits, run.module, epoch, batch)
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        if run.schedule is not None:
            run.schedule.step()
        total += loss.detach() * len(chosen)
        shown = loss.item() if batch % recipe.log_every == 0 else None
        watch.batch(epoch, batch, run.batches, shown)
    mean = total.item() / len(part)
    if not math.isfinite(mean):
        raise TrainingProblem(
            f"the loss of epoch {epoch} is {mean}; lower the learning rate of recipe "
            f"'{recipe.name}' ({recipe.learning_rate}) or use another recipe"
        )
    return mean


def _forward(run: Run, part: Part, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and loss of the chosen images, changed as the recipe says."""
    recipe = run.recipe
    scaled = part.pixels[chosen].float().div(255)
    if recipe.augmentation is not None:
        scaled = augment(scaled, recipe.augmentation, run.chance)
    answered = answer(run.module, normalised(scaled))
    loss = functional.cross_entropy(
        answered.logits, part.labels[chosen], label_smoothing=recipe.label_smoothing
    )
    if recipe.balance_weight > 0:
        loss = loss + recipe.balance_weight * answered.balance_loss()
    return answered.logits, loss


def _save_best(
    job: Job, model: ModelEntry, run: Run, data: DataSet, test: Score | None = None
) -> Card:
    """Write the best weights so far and their card, with the test where it is done."""
    recipe = job.recipe
    accuracy: dict[str, float] = {recipe.chosen_on: run.best.accuracy}
    if test is not None:
        accuracy["test"] = test.accuracy
    held_out = round(len(data.train) * recipe.held_out)
    usual_epochs = model.recipes[recipe.name].epochs
    card = Card(
        model=model.name,
        parameters=sum(parameter.numel() for parameter in run.module.parameters()),
        sha256="",
        data={
            "name": data.name,
            "training_images": len(data.train) - held_out,
            "validation_images": held_out,
            "test_images": len(data.test),
            "sha256": data.sha256,
        },
        recipe=dataclasses.asdict(recipe),
        seed=job.seed,
        command=job.command(epochs_of_recipe=usual_epochs),
        epoch=run.best_epoch,
        chosen_by=_how_chosen(recipe),
        accuracy=accuracy,
        made_with={"torch": torch.__version__, "device": describe_device(run.device)},
        experts=_expert_facts(recipe, run.best, test),
    )
    return save_checkpoint(run.best_weights, _weights_path(job), card)


def _expert_facts(recipe: Recipe, best: EpochRecord, test: Score | None) -> dict[str, Any] | None:
    """What the card says of the experts; None where there are none."""
    if not best.balance:
        return None
    balance: dict[str, list[float]] = {recipe.chosen_on: list(best.balance)}
    if test is None:
        return {"balance": balance}
    balance["test"] = list(test.balance)
    return {
        "balance": balance,
        "test_least_share": least_share(test.expert_tokens),
        "test_tokens": test.expert_tokens.tolist(),
    }


def _how_chosen(recipe: Recipe) -> str:
    best = {"accuracy": "highest accuracy", "loss": "lowest loss"}[recipe.best_by]
    if recipe.held_out:
        return (
            f"{best} on validation images held out from the training images; "
            "the test images had no part in it"
        )
    return f"{best} on the test images, so its test accuracy is a little flattering"


def _weights_path(job: Job) -> Path:
    return job.output / f"{job.model}.safetensors"


def _finish(job: Job, model: ModelEntry, run: Run, data: DataSet) -> Trained:
    """Measure the best weights on the test images; write the card and the pictures."""
    run.module.load_state_dict(run.best_weights)
    test = evaluate(run.module, part_from_split(data.test, run.device), job.recipe.test_batch_size)
    curves, predictions = job.output / "curves.png", job.output / "predictions.png"
    save_png(curves_figure(run.records, job.recipe.chosen_on), curves)
    shown = data.test[:PICTURED]
    answered = predictions_figure(shown.images, test.predicted[:PICTURED], shown.labels)
    save_png(answered, predictions)
    experts = job.output / "experts.png" if len(test.expert_tokens) else None
    if experts is not None:
        save_png(experts_figure(test.expert_tokens), experts)
    card = _save_best(job, model, run, data, test)
    return Trained(card, _weights_path(job), curves, predictions, tuple(run.records), experts)
