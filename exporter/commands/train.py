"""``twinport train``: parse, call ``models.train.train``, print."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import click
from torch import Tensor, nn

from exporter.look.autograd import require_graphviz, save_autograd_graph
from exporter.train_view import TrainView, balance_text
from models.data import DATASETS
from models.errors import ModelsError
from models.recipes import recipe_named
from models.registry import entry
from models.run import Job, read_state
from models.seeding import DEVICES
from models.train import OnGraph, Trained
from models.train import train as train_model
from runtime.errors import TrainingError

INTERRUPTED = 130
BESIDE_THE_RUN = "graphs"


@click.command()
@click.argument("model")
@click.option("--recipe", help="'best', or for lenet5 'lecture' too.  [default: best]")
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Of everything.  [default: 0]")
@click.option("--dataset", type=click.Choice(DATASETS), help="[default: mnist]")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of MNIST; else TWINPORT_DATA names it, else it is ./data.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run.  [default: runs/MODEL]",
)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder.")
@click.option(
    "--graph",
    type=click.Path(path_type=Path, file_okay=False),
    is_flag=False,
    flag_value=Path(BESIDE_THE_RUN),
    metavar="[DIR]",
    help="Draw the autograd graph on the first batch of each epoch; into OUTPUT/graphs, or DIR.",
)
@click.pass_context
def train(
    ctx: click.Context,
    /,
    model: str,
    output: Path | None,
    data: Path | None,
    device: str,
    resume: bool,
    graph: Path | None,
    **asked: Any,
) -> None:
    """Train a built-in MODEL and keep its best weights.

    The output folder gets the weights with a JSON card, the curves, five predictions, the
    heat map of the experts where there are any, and the state of the run; Ctrl-C costs at
    most the epoch that is under way.
    """
    output = output or Path("runs") / model
    try:
        job = _job(model, output, asked, resume=resume)
        job = dataclasses.replace(job, data=data, device=device)
        with TrainView(job.recipe.epochs) as view:
            drawing = _drawing(graph, job, view) if graph is not None else None
            trained = train_model(job, view, drawing)
    except ModelsError as error:
        raise TrainingError(str(error)) from error
    except KeyboardInterrupt:
        click.echo(f"interrupted; {_how_to_go_on(model, output, data)}", err=True)
        ctx.exit(INTERRUPTED)
    _show(trained)


def _job(model: str, output: Path, asked: dict[str, Any], *, resume: bool) -> Job:
    """The job; on a resume what was not asked for stays as the run was begun.

    Args:
        model: The name of a built-in model.
        output: The folder of the run.
        asked: ``recipe``, ``epochs``, ``seed`` and ``dataset``; None where not given.
        resume: Whether the run goes on.

    Raises:
        ModelsError: No such model or recipe, or no run to resume.
    """
    built_in = entry(model)
    begun: dict[str, Any] = read_state(output)["identity"] if resume else {}
    given = {name: value for name, value in asked.items() if value is not None}
    usual = {
        "recipe": begun.get("recipe name", built_in.default_recipe),
        "epochs": begun.get("recipe epochs"),
        "seed": begun.get("seed", 0),
        "dataset": begun.get("dataset", "mnist"),
    }
    chosen = {**usual, **given}
    recipe = recipe_named(built_in.recipes, chosen["recipe"])
    if chosen["epochs"] is not None:
        recipe = dataclasses.replace(recipe, epochs=chosen["epochs"])
    return Job(model, recipe, chosen["seed"], output, chosen["dataset"], resume=resume)


def _drawing(folder: Path, job: Job, view: TrainView) -> OnGraph:
    """What draws the graph; Graphviz is asked for before an epoch is spent.

    Raises:
        BackendUnavailable: Graphviz is missing.
    """
    require_graphviz()
    if folder == Path(BESIDE_THE_RUN):
        folder = job.output / BESIDE_THE_RUN

    def draw(logits: Tensor, module: nn.Module, epoch: int, batch: int) -> None:
        stem = folder / f"{job.model}-epoch-{epoch:03}-batch-{batch:04}"
        view.note(f"graph: {save_autograd_graph(logits, dict(module.named_parameters()), stem)}")

    return draw


def _how_to_go_on(model: str, output: Path, data: Path | None) -> str:
    try:
        state = read_state(output)
    except ModelsError:
        return "no epoch was finished, so there is nothing to resume"
    words = ["twinport", "train", model, "--resume", "--output", str(output)]
    words += ["--data", str(data)] if data is not None else []
    kept = f"{len(state['records'])} of {state['identity']['recipe epochs']} epochs"
    return f"{kept} are kept; go on with: {shlex.join(words)}"


def _show(trained: Trained) -> None:
    card = trained.card
    parts = ", ".join(f"{part} {100 * share:.2f} %" for part, share in card.accuracy.items())
    click.echo(f"accuracy:    {parts} (epoch {card.epoch})")
    click.echo(f"weights:     {trained.weights}")
    click.echo(f"curves:      {trained.curves}")
    click.echo(f"predictions: {trained.predictions}")
    if card.experts is not None:
        click.echo(
            f"balance:     test {balance_text(card.experts['balance']['test'])}; the least used "
            f"expert has {100 * card.experts['test_least_share']:.0f} % of an even share"
        )
        click.echo(f"experts:     {trained.experts}")
