import dataclasses
import io
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from models import registry
from models import train as training
from models.checkpoint import load_checkpoint
from models.data import DataSet, Split, digits
from models.errors import TrainingProblem
from models.recipes import LENET5_RECIPES, MOE_RECIPES, Augmentation, Recipe
from models.routing import Routed
from models.run import STATE_FILE, EpochRecord, Job, Run, check_same_run, read_state
from models.score import Part, evaluate, part_from_split
from models.train import train
from models.watch import Silence

BEST, LECTURE = LENET5_RECIPES["best"], LENET5_RECIPES["lecture"]
MOE = MOE_RECIPES["best"]


class Dropping(nn.Module):
    """Draws from torch's, NumPy's and Python's global generators while it trains."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(1024)
        self.linear = nn.Linear(1024, 10)

    def forward(self, image):
        noise = (np.random.rand() + random.random()) if self.training else 0
        return self.linear(self.drop(self.norm(image.flatten(1)))) * (1 + noise)


class Skewed(nn.Module):
    """Two layers of four experts; what the gates say is a parameter, and the same for all."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1024, 10)
        self.gates = nn.Parameter(torch.tensor([[4.0, 3, 0, 0], [0, 0, 0, 4]]))

    def forward(self, image):
        return self.linear(image.flatten(1))

    def routed(self, image):
        gates = (gate.expand(len(image), 3, 4) for gate in self.gates)
        return Routed(self(image), tuple(gates), top_k=2)


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """240 of the digits, and a second model that has chance inside."""
    every = digits()
    data = DataSet("digits", every[:240], every[240:360])
    monkeypatch.setattr(training, "load_dataset", lambda name, folder, notify: data)
    lenet5 = registry.entry("lenet5")
    entries = {
        "lenet5": lenet5,
        "moe": registry.entry("moe"),
        "dropping": dataclasses.replace(lenet5, name="dropping", build=Dropping),
        "skewed": dataclasses.replace(lenet5, name="skewed", build=Skewed),
    }
    monkeypatch.setattr(registry, "_ENTRIES", entries)
    return data


def job(folder, recipe=BEST, *, model="lenet5", epochs=3, seed=0, resume=False, **changes):
    recipe = dataclasses.replace(recipe, epochs=epochs, **changes)
    return Job(model, recipe, seed, folder, "digits", device="cpu", resume=resume)


class Stop(Silence):
    """Presses Ctrl-C in the middle of an epoch."""

    def __init__(self, epoch, batch):
        self.at = (epoch, batch)

    def batch(self, epoch, batch, batches, loss):
        if (epoch, batch) == self.at:
            raise KeyboardInterrupt


class Notes(Silence):
    def __init__(self):
        self.batches, self.losses, self.epochs, self.texts = [], [], [], []

    def note(self, text):
        self.texts.append(text)

    def batch(self, epoch, batch, batches, loss):
        self.batches.append((epoch, batch, batches))
        if loss is not None:
            self.losses.append((epoch, batch, loss))

    def epoch(self, record, recipe):
        self.epochs.append(record)


def flat(value, path=""):
    """Every leaf of nested state by its path, tensors as bytes."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif isinstance(value, torch.Tensor):
        return {path: (value.dtype, tuple(value.shape), value.numpy().tobytes())}
    else:
        return {path: repr(value)}
    return {k: v for key, item in items for k, v in flat(item, f"{path}/{key}").items()}


def weights_bytes(folder, model="lenet5"):
    return (folder / f"{model}.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("model", "recipe"),
    [("lenet5", BEST), ("lenet5", LECTURE), ("dropping", BEST), ("moe", MOE)],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, model, recipe):
    train(job(tmp_path / "whole", recipe, model=model))
    for stop in (Stop(1, 1), Stop(2, 2), Stop(3, 1)):
        begun = (tmp_path / "parts" / STATE_FILE).exists()
        with pytest.raises(KeyboardInterrupt):
            train(job(tmp_path / "parts", recipe, model=model, resume=begun), stop)
        torch.rand(7), np.random.rand(7), random.random()
    assert len(read_state(tmp_path / "parts")["records"]) == 2
    train(job(tmp_path / "parts", recipe, model=model, resume=True))

    whole, parts = (flat(read_state(tmp_path / name)) for name in ("whole", "parts"))
    assert [path for path in whole if whole[path] != parts.get(path)] == []
    assert whole.keys() == parts.keys()
    assert weights_bytes(tmp_path / "whole", model) == weights_bytes(tmp_path / "parts", model)
    pictures = ["curves.png", "predictions.png", *(["experts.png"] if model == "moe" else [])]
    for name in (f"{model}.json", *pictures):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_the_best_weights_so_far_are_there_while_a_run_goes(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(job(tmp_path), Stop(2, 1))
    card = load_checkpoint(registry.entry("lenet5").build(), tmp_path / "lenet5.safetensors")
    assert card.epoch == 1
    assert card.accuracy == {"validation": read_state(tmp_path)["records"][0]["accuracy"]}


def test_the_state_holds_optimizer_schedule_and_every_generator(tmp_path):
    train(job(tmp_path, epochs=1))
    state = read_state(tmp_path)
    assert state["optimizer"]["state"][0]["exp_avg_sq"].any()
    assert state["schedule"]["last_epoch"] == 2, "two batches of 220 images"
    assert set(state["random"]) == {"python", "numpy", "torch", "cuda"}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(job(tmp_path / name, epochs=1, seed=seed))
    assert weights_bytes(tmp_path / "a") == weights_bytes(tmp_path / "b")
    assert weights_bytes(tmp_path / "a") != weights_bytes(tmp_path / "c")


def test_resuming_a_finished_run_trains_nothing_more(tmp_path):
    train(job(tmp_path, epochs=1))
    before, notes = weights_bytes(tmp_path), Notes()
    train(job(tmp_path, epochs=1, resume=True), notes)
    assert notes.batches == []
    assert weights_bytes(tmp_path) == before


def test_a_run_is_not_written_over(tmp_path):
    train(job(tmp_path, epochs=1))
    with pytest.raises(TrainingProblem, match="holds a run already; go on with it by --resume"):
        train(job(tmp_path, epochs=1))


def test_without_a_finished_epoch_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(job(tmp_path), Stop(1, 2))
    with pytest.raises(TrainingProblem, match="holds no run to resume"):
        train(job(tmp_path, resume=True))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"seed": 7}, "begun with seed 0, asked for is 7"),
        ({"epochs": 4}, "begun with recipe epochs 3, asked for is 4"),
        ({"label_smoothing": 0.5}, "begun with recipe label_smoothing .*, asked for is 0.5"),
        ({"recipe": LECTURE}, "begun with recipe name best, asked for is lecture"),
        ({"model": "dropping"}, "begun with model lenet5, asked for is dropping"),
    ],
)
def test_a_run_only_goes_on_as_it_was_begun(tmp_path, changes, text):
    with pytest.raises(KeyboardInterrupt):
        train(job(tmp_path), Stop(2, 1))
    before = (tmp_path / STATE_FILE).read_bytes()
    with pytest.raises(TrainingProblem, match=text):
        train(job(tmp_path, resume=True, **changes))
    assert (tmp_path / STATE_FILE).read_bytes() == before


def test_a_run_does_not_go_on_with_other_data(tmp_path, small_world, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(job(tmp_path), Stop(2, 1))
    other = dataclasses.replace(small_world, test=small_world.test[1:])
    monkeypatch.setattr(training, "load_dataset", lambda *_: other)
    with pytest.raises(TrainingProblem, match="begun with data SHA-256"):
        train(job(tmp_path, resume=True))


def test_a_run_begun_before_a_part_of_the_recipe_was_known_goes_on_with_its_default(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(job(tmp_path), Stop(2, 1))
    state = read_state(tmp_path)
    del state["identity"]["recipe balance_weight"]
    for record in state["records"]:
        del record["balance"]
    torch.save(state, tmp_path / STATE_FILE)
    identity = {**state["identity"], "recipe balance_weight": 0.5}
    with pytest.raises(TrainingProblem, match=r"recipe balance_weight 0\.0, asked for is 0\.5"):
        check_same_run(state, identity, tmp_path)
    trained = train(job(tmp_path, resume=True))
    assert [record.balance for record in trained.records] == [()] * 3


class Trap:
    def __reduce__(self):
        return print, ("executed",)


def test_a_damaged_or_foreign_state_is_one_line_and_never_executed(tmp_path, capsys):
    trap, old = io.BytesIO(), io.BytesIO()
    torch.save({"format": 1, "module": Trap()}, trap)
    torch.save({"format": 0}, old)
    for content, text in (
        (b"", "cannot be read"),
        (b"not a state", "cannot be read"),
        (old.getvalue()[:-40], "cannot be read"),
        (trap.getvalue(), "cannot be read"),
        (old.getvalue(), "written by another release"),
    ):
        (tmp_path / STATE_FILE).write_bytes(content)
        with pytest.raises(TrainingProblem, match=text) as caught:
            train(job(tmp_path, resume=True))
        assert "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("best_by", "epochs", "kept", "best"),
    [
        (
            "accuracy",
            [(0.5, 1.0), (0.4, 0.1), (0.7, 2.0), (0.7, 2.0), (0.7, 1.5), (0.6, 0.0)],
            [True, False, True, False, True, False],
            5,
        ),
        (
            "loss",
            [(0.5, 1.0), (0.9, 1.1), (0.4, 0.5), (0.4, 0.5), (0.6, 0.5), (0.9, 0.6)],
            [True, False, True, False, True, False],
            5,
        ),
    ],
)
def test_the_best_epoch_is_that_of_the_recipes_measure_and_the_other_breaks_ties(
    best_by, epochs, kept, best
):
    recipe = Recipe("test", epochs=9, batch_size=1, learning_rate=0.1, best_by=best_by)
    run = Run(nn.Linear(1, 1), recipe, seed=0, batches=1, device=torch.device("cpu"))
    found = []
    for epoch, (accuracy, loss) in enumerate(epochs, start=1):
        with torch.no_grad():
            run.module.bias.fill_(epoch)
        found.append(run.finish_epoch(EpochRecord(epoch, 0.0, loss, accuracy)))
    assert found == kept
    assert run.best_epoch == run.best.epoch == best
    assert run.best_weights["bias"].item() == best, "a copy, not the weights that train on"


def test_the_kept_weights_have_the_accuracy_that_the_card_states(tmp_path, small_world):
    recipe = dataclasses.replace(LECTURE, held_out=1 / 12, best_by="loss")
    trained = train(job(tmp_path, recipe, epochs=6, batch_size=16, learning_rate=0.02))
    losses = [record.loss for record in trained.records]
    # By a margin that no order of additions bridges: processors and threads differ in it.
    assert 2 * min(losses) < losses[-1], "the rate is high on purpose: the last is not the best"
    assert trained.card.epoch == losses.index(min(losses)) + 1
    module = registry.entry("lenet5").build()
    assert load_checkpoint(module, trained.weights) == trained.card
    cpu = torch.device("cpu")
    validation = evaluate(module, part_from_split(small_world.train[220:], cpu), 1000)
    test = evaluate(module, part_from_split(small_world.test, cpu), 1000)
    assert trained.card.accuracy == {"validation": validation.accuracy, "test": test.accuracy}
    assert validation.loss == pytest.approx(min(losses))
    assert trained.card.data["training_images"] == 220
    assert trained.card.data["validation_images"] == 20
    assert trained.card.data["sha256"] == small_world.sha256
    assert trained.card.command == (
        "twinport train lenet5 --recipe lecture --dataset digits --epochs 6 --seed 0"
    )


@pytest.mark.parametrize(("recipe", "matters"), [(BEST, False), (LECTURE, True)])
def test_the_test_images_choose_nothing_unless_the_card_says_so(
    tmp_path, small_world, monkeypatch, recipe, matters
):
    wrong = Split(small_world.test.images, (small_world.test.labels + 1) % 10)
    chosen = [train(job(tmp_path / "right", recipe, epochs=4, batch_size=32))]
    monkeypatch.setattr(
        training, "load_dataset", lambda *_: dataclasses.replace(small_world, test=wrong)
    )
    chosen.append(train(job(tmp_path / "wrong", recipe, epochs=4, batch_size=32)))
    same = weights_bytes(tmp_path / "right") == weights_bytes(tmp_path / "wrong")
    assert same is not matters
    said = {trained.card.chosen_by for trained in chosen}
    assert all(("test images had no part" in text) is not matters for text in said)


def test_held_out_images_are_never_trained_on(tmp_path, small_world, monkeypatch):
    changed = small_world.train.images.copy()
    changed[220:] = 255 - changed[220:]
    other = Split(changed, small_world.train.labels)
    one = train(job(tmp_path / "a", epochs=1))
    monkeypatch.setattr(
        training, "load_dataset", lambda *_: dataclasses.replace(small_world, train=other)
    )
    two = train(job(tmp_path / "b", epochs=1))
    assert one.records[0].train_loss == two.records[0].train_loss
    assert weights_bytes(tmp_path / "a") == weights_bytes(tmp_path / "b")
    assert one.records[0].loss != two.records[0].loss


def test_the_watch_sees_the_device_every_batch_a_loss_at_each_step_and_every_epoch(tmp_path):
    notes = Notes()
    trained = train(job(tmp_path, LECTURE, epochs=2, log_every=3, batch_size=32), notes)
    assert notes.texts == [f"device: cpu ({torch.get_num_threads()} threads)"]
    assert notes.batches == [(epoch, batch, 8) for epoch in (1, 2) for batch in range(1, 9)]
    assert [(epoch, batch) for epoch, batch, _ in notes.losses] == [(1, 3), (1, 6), (2, 3), (2, 6)]
    assert all(0 < loss < 3 for _, _, loss in notes.losses)
    assert tuple(notes.epochs) == trained.records


def test_training_lowers_the_loss_and_finds_most_digits(tmp_path):
    trained = train(job(tmp_path, LECTURE, epochs=12, batch_size=16))
    losses = [record.train_loss for record in trained.records]
    assert losses[0] == pytest.approx(math.log(10), abs=0.2)
    assert losses[-1] < losses[0] / 3
    assert trained.card.accuracy["test"] > 0.7


def test_the_graph_callback_gets_the_first_batch_of_each_epoch_with_its_graph(tmp_path):
    seen = []

    def on_graph(logits, module, epoch, batch):
        seen.append((epoch, batch, tuple(logits.shape), logits.grad_fn is not None))
        assert module.training

    train(job(tmp_path, epochs=2), None, on_graph)
    assert seen == [(1, 1, (128, 10), True), (2, 1, (128, 10), True)]


def losses_and_gates(folder, weight):
    """The first epoch's loss and the gates after it."""
    recipe = dataclasses.replace(LECTURE, balance_weight=weight)
    trained = train(job(folder, recipe, model="skewed", epochs=1))
    module = Skewed()
    load_checkpoint(module, trained.weights)
    return trained.records[0].train_loss, module.gates.detach()


def test_the_balance_loss_of_a_model_with_experts_counts_by_its_weight(tmp_path):
    before = Skewed().gates.detach()
    plain, untouched = losses_and_gates(tmp_path / "plain", 0.0)
    assert torch.equal(untouched, before)
    weighted, pushed = losses_and_gates(tmp_path / "weighted", 0.5)
    # Two of four experts have all the tokens: the loss is near 4 / 2, by the weight of 0.5.
    assert weighted - plain == pytest.approx(0.5 * 2, abs=0.15)
    assert (pushed[0, :2] < before[0, :2]).all(), "the busy ones are chosen less"
    assert (pushed[0, 2:] > before[0, 2:]).all()
    assert (pushed[1] - before[1])[3] < 0


def test_the_card_and_every_epoch_say_how_evenly_the_experts_are_used(tmp_path):
    trained = train(job(tmp_path, model="skewed", epochs=2, test_batch_size=50))
    # Experts 0 and 1 have all in layer 0; 3, and by the tie 0, in layer 1.
    tokens = [[360, 360, 0, 0], [360, 0, 0, 360]]
    assert [record.balance for record in trained.records] == [(0.0, 0.0)] * 2
    assert trained.card.experts == {
        "balance": {"validation": [0.0, 0.0], "test": [0.0, 0.0]},
        "test_least_share": 0.0,
        "test_tokens": tokens,
    }
    assert load_checkpoint(Skewed(), trained.weights) == trained.card
    assert trained.experts.read_bytes().startswith(b"\x89PNG")


def test_while_a_run_goes_its_card_says_the_balance_on_the_images_that_choose(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(job(tmp_path, model="skewed"), Stop(2, 1))
    card = load_checkpoint(Skewed(), tmp_path / "skewed.safetensors")
    assert card.experts == {"balance": {"validation": [0.0, 0.0]}}


def test_a_model_without_experts_has_no_balance_and_no_heat_map(tmp_path):
    trained = train(job(tmp_path, epochs=1))
    assert trained.records[0].balance == ()
    assert trained.experts is trained.card.experts is None
    assert "experts" not in json.loads((tmp_path / "lenet5.json").read_text())
    assert not (tmp_path / "experts.png").exists()


def test_a_loss_that_is_not_finite_ends_the_run_with_one_line(tmp_path):
    with pytest.raises(TrainingProblem, match=r"the loss of epoch \d is (nan|inf)") as caught:
        train(job(tmp_path, LECTURE, epochs=5, learning_rate=1e18))
    assert "\n" not in str(caught.value)


def test_a_run_of_no_epochs_is_refused():
    with pytest.raises(TrainingProblem, match="0 epochs were asked for; wanted at least 1"):
        dataclasses.replace(BEST, epochs=0)


def test_scoring_runs_in_evaluation_mode_over_batches_of_the_size_asked_for():
    sizes = []

    class Spy(nn.Module):
        def forward(self, image):
            assert not self.training
            sizes.append(len(image))
            return torch.nn.functional.one_hot(torch.full((len(image),), 3), 10).float()

    labels = torch.tensor([3] * 1500 + [4] * 1000)
    score = evaluate(Spy().train(), Part(torch.zeros(2500, 1, 32, 32).byte(), labels), 1000)
    assert sizes == [1000, 1000, 500]
    assert score.accuracy == 0.6
    right, wrong = math.log(math.e + 9) - 1, math.log(math.e + 9)
    assert score.loss == pytest.approx(0.6 * right + 0.4 * wrong, rel=1e-6)
    assert score.predicted.tolist() == [3] * 2500


def test_the_recipe_reaches_the_optimizer_the_schedule_and_the_loss(tmp_path, monkeypatch):
    rates, smoothings = [], []
    forward = training._forward
    real = torch.nn.functional.cross_entropy

    def spy(run, part, chosen):
        rates.append(run.optimizer.param_groups[0]["lr"])
        return forward(run, part, chosen)

    def cross_entropy(logits, labels, **options):
        if "label_smoothing" in options:
            smoothings.append(options["label_smoothing"])
        return real(logits, labels, **options)

    monkeypatch.setattr(training, "_forward", spy)
    monkeypatch.setattr(training, "functional", SimpleNamespace(cross_entropy=cross_entropy))
    train(job(tmp_path / "best", epochs=10))
    assert max(rates) == pytest.approx(BEST.learning_rate, rel=0.05)
    assert 0 < rates.index(max(rates)) < len(rates) / 2
    assert rates[-1] < rates[0] < max(rates)
    assert set(smoothings) == {BEST.label_smoothing}
    rates.clear()
    train(job(tmp_path / "lecture", LECTURE, epochs=2))
    assert set(rates) == {1e-3}


def test_the_best_recipe_changes_training_images_and_the_lecture_recipe_does_not(
    tmp_path, monkeypatch
):
    limits = []
    monkeypatch.setattr(
        training, "augment", lambda scaled, given, chance: limits.append(given) or scaled
    )
    train(job(tmp_path / "best", epochs=1))
    assert limits == [BEST.augmentation] * 2
    assert isinstance(BEST.augmentation, Augmentation)
    train(job(tmp_path / "lecture", LECTURE, epochs=1))
    assert len(limits) == 2
