import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from torchvision.datasets import MNIST

from exporter.commands import train as train_cli
from exporter.train_view import TrainView, epoch_line
from models import train as training
from models.data import DataSet, digits
from models.recipes import LENET5_RECIPES
from models.run import EpochRecord, read_state
from runtime.cli import main

RECORD = EpochRecord(1, 2.0, 1.5, 0.875)
PROGRAM = [sys.executable, "-c", "import sys; from runtime.cli import main; sys.exit(main())"]


@pytest.fixture(autouse=True)
def few_digits(request, monkeypatch, tmp_path):
    """A working folder of its own; 240 digits stand for every data set."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TWINPORT_DATA", raising=False)
    if "real_data" not in request.fixturenames:
        every = digits()
        data = DataSet("digits", every[:240], every[240:360])
        monkeypatch.setattr(training, "load_dataset", lambda *_: data)


@pytest.fixture
def real_data():
    """Ask for it to load data as the program does."""


def run(*words):
    return main(["train", *map(str, words)])


def test_a_run_prints_its_course_and_leaves_weights_card_and_pictures(tmp_path, capsys):
    assert run("lenet5", "--recipe", "lecture", "--epochs", 2, "--seed", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(("device: cpu (", "device: cuda ("))
    assert lines[1].startswith("epoch 1/2: loss ")
    assert "test accuracy" in lines[2]
    assert lines[3].startswith("accuracy:")
    folder = tmp_path / "runs" / "lenet5"
    assert {path.name for path in folder.iterdir()} == {
        "lenet5.safetensors", "lenet5.json", "curves.png", "predictions.png", "state.pt",
    }  # fmt: skip
    card = json.loads((folder / "lenet5.json").read_text())
    assert card["command"] == "twinport train lenet5 --recipe lecture --epochs 2 --seed 3"


def test_a_mixture_of_experts_trains_on_the_bundled_digits_by_the_real_command(real_data, tmp_path):
    words = ["train", "moe", "--dataset", "digits", "--epochs", "1", "--device", "cpu"]
    ended = subprocess.run(
        [*PROGRAM, *words], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert re.fullmatch(
        r"epoch 1/1: loss .* accuracy \S+ %, expert balance -?\d\.\d{3} "
        r"\(layers -?\d\.\d{3}, -?\d\.\d{3}, -?\d\.\d{3}\)",
        lines[1],
    )
    folder = tmp_path / "runs" / "moe"
    assert {path.name for path in folder.iterdir()} == {
        "moe.safetensors", "moe.json", "curves.png", "predictions.png", "experts.png", "state.pt",
    }  # fmt: skip
    card = json.loads((folder / "moe.json").read_text())
    assert (
        card["command"] == "twinport train moe --recipe best --dataset digits --epochs 1 --seed 0"
    )
    tokens = card["experts"]["test_tokens"]
    assert [sum(layer) for layer in tokens] == [2 * 25 * 360] * 3
    least = min(min(layer) for layer in tokens) / (2 * 25 * 360 / 8)
    assert f"the least used expert has {100 * least:.0f} % of an even share" in lines[-2]
    assert lines[-1] == "experts:     runs/moe/experts.png"


def test_resume_alone_takes_everything_else_from_the_run(tmp_path, monkeypatch, capsys):
    finish = TrainView.epoch

    def interrupted(view, record, recipe):
        finish(view, record, recipe)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainView, "epoch", interrupted)
    assert run("lenet5", "--recipe", "lecture", "--epochs", 3, "--seed", 4, "-o", "my run") == 130
    captured = capsys.readouterr()
    assert captured.err == (
        "interrupted; 1 of 3 epochs are kept; go on with: "
        "twinport train lenet5 --resume --output 'my run'\n"
    )
    monkeypatch.setattr(TrainView, "epoch", finish)
    assert run("lenet5", "--resume", "--output", "my run") == 0
    assert len(read_state(tmp_path / "my run")["records"]) == 3
    assert "epoch 2/3" in capsys.readouterr().out


def test_what_is_given_beside_resume_must_be_what_the_run_was_begun_with(capsys):
    assert run("lenet5", "--epochs", 1) == 0
    capsys.readouterr()
    for words, text in (
        (("--seed", 5), "begun with seed 0, asked for is 5"),
        (("--epochs", 5), "begun with recipe epochs 1, asked for is 5"),
        (("--recipe", "lecture"), "begun with recipe name best, asked for is lecture"),
        (("--dataset", "digits"), "begun with dataset mnist, asked for is digits"),
    ):
        assert run("lenet5", "--resume", *words) == 1
        error = capsys.readouterr().err
        assert text in error
        assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("lenet",), 1, "no built-in model 'lenet'; use one of lenet5"),
        (("lenet5", "--recipe", "fast"), 1, "no recipe 'fast'; use one of lecture, best"),
        (("lenet5", "--resume"), 1, "holds no run to resume"),
        (("lenet5", "--epochs", "0"), 2, "--epochs"),
        (("lenet5", "--dataset", "emnist"), 2, "emnist"),
        (("lenet5", "--seed", "-1"), 2, "--seed"),
        ((), 2, "MODEL"),
    ],
)
def test_wrong_words_are_refused(words, code, text, capsys, tmp_path):
    assert run(*words) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    if code == 1:
        assert len(captured.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == [], "nothing is begun"


def test_a_second_run_into_the_same_folder_is_refused(capsys):
    assert run("lenet5", "--epochs", 1) == 0
    assert run("lenet5", "--epochs", 1) == 1
    assert "'runs/lenet5' holds a run already" in capsys.readouterr().err


def test_an_output_that_cannot_be_made_is_one_line_before_anything_is_trained(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("lenet5", "-o", "file/run") == 1
    captured = capsys.readouterr()
    assert "'file/run' cannot be written (Not a directory)" in captured.err
    assert "epoch" not in captured.out


def test_missing_mnist_without_a_network_is_one_line(real_data, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert run("lenet5") == 1
    error = capsys.readouterr().err
    assert "--data or TWINPORT_DATA" in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.needs_tool("dot", "apt-get install graphviz")
@pytest.mark.parametrize(
    ("words", "folder"), [(("--graph",), "runs/lenet5/graphs"), (("--graph", "seen"), "seen")]
)
def test_graph_draws_the_first_batch_of_every_epoch(words, folder, tmp_path, capsys):
    assert run("lenet5", "--epochs", 2, *words) == 0
    assert sorted(path.name for path in (tmp_path / folder).iterdir()) == [
        "lenet5-epoch-001-batch-0001.png",
        "lenet5-epoch-002-batch-0001.png",
    ]
    assert f"graph: {folder}/lenet5-epoch-001-batch-0001.png" in capsys.readouterr().out


def test_graph_without_graphviz_is_one_line_before_anything_is_trained(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run("lenet5", "--epochs", 1, "--graph") == 1
    captured = capsys.readouterr()
    assert "apt-get install graphviz" in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_the_real_process_with_one_line_that_says_how_to_go_on(real_data, tmp_path):
    words = ["train", "lenet5", "--dataset", "digits", "--epochs", "500", "--device", "cpu"]
    process = subprocess.Popen(
        [*PROGRAM, *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        for line in process.stdout:
            if line.startswith("epoch 2/500"):
                process.send_signal(signal.SIGINT)
                break
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    lines = error.splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("twinport train lenet5 --resume --output runs/lenet5")
    kept = len(read_state(tmp_path / "runs" / "lenet5")["records"])
    assert f"{kept} of 500 epochs are kept" in lines[0]
    assert 2 <= kept < 500


def test_elsewhere_than_on_a_terminal_there_are_plain_lines(capsys):
    with TrainView(30, terminal=False) as view:
        view.batch(1, 1, 8, None)
        view.batch(1, 2, 8, 0.5)
        view.epoch(RECORD, LENET5_RECIPES["best"])
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/30, batch 2/8: loss 0.5000",
        "epoch 1/30: loss 2.0000, validation loss 1.5000, validation accuracy 87.50 %",
    ]


def test_an_epoch_of_a_model_with_experts_shows_their_balance_in_the_mean_and_by_layer():
    record = dataclasses.replace(RECORD, balance=(0.5, 0.75, 1.0))
    assert epoch_line(record, LENET5_RECIPES["best"]) == (
        "epoch 1/30: loss 2.0000, validation loss 1.5000, validation accuracy 87.50 %, "
        "expert balance 0.750 (layers 0.500, 0.750, 1.000)"
    )


def test_on_a_terminal_there_is_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    with TrainView(30, terminal=True) as view:
        view.note("device: [cpu]")
        view.batch(4, 3, 8, 0.25)
        view.bar.refresh()
        view.epoch(RECORD, LENET5_RECIPES["best"])
    shown = capsys.readouterr().out
    for text in ("device: [cpu]", "epoch 4/30", "3/8", "loss 0.2500", "━", "epoch 1/30: loss"):
        assert text in shown


def test_the_command_sends_the_first_batch_through_the_module_that_trains(tmp_path, monkeypatch):
    """The picture is of the parameters by their names."""
    seen = []
    monkeypatch.setattr(train_cli, "require_graphviz", lambda: None)
    monkeypatch.setattr(
        train_cli,
        "save_autograd_graph",
        lambda output, params, stem: seen.append((output, params, stem)) or stem,
    )
    assert run("lenet5", "--epochs", 1, "--graph", tmp_path) == 0
    output, params, stem = seen[0]
    assert isinstance(output, torch.Tensor)
    assert list(params)[:2] == ["conv1.weight", "conv1.bias"]
    assert stem == tmp_path / "lenet5-epoch-001-batch-0001"
